"""The entries of dvc.lock in the working folder, in which DVC records the results of the stages."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddpm.files import write_text

LOCK = Path("dvc.lock")
_STAGE = re.compile(r"^  \S+:$", re.MULTILINE)
"""The first line of a stage's entry."""
TORN = "is torn, since a dvc was killed while it wrote it"


def mend(report: Callable[[str], None]) -> None:
    """Keep only the whole entries of a dvc.lock that is torn, which no dvc reads; `report` gets one sentence.

    Call it only where no dvc can be writing the file. DVC takes what a lost entry records from its cache of runs, or
    runs the stage again.
    """
    if not is_torn():
        return
    kept = _without_last_entry(LOCK.read_text(errors="replace"))
    if kept:
        write_text(LOCK, kept)
    else:
        LOCK.unlink()
    report(f"{LOCK} {TORN}; its whole entries were kept, and the other stages are done again or taken from DVC's cache")


def is_torn() -> bool:
    """Return whether dvc.lock ends in the middle of an entry. DVC writes the file from its beginning, in place."""
    from ruamel.yaml import YAML, YAMLError

    try:
        text = LOCK.read_text()
        stages = YAML(typ="safe").load(text)["stages"]
        return not text.endswith("\n") or not _is_whole(list(stages.values())[-1])
    except FileNotFoundError:
        return False
    except (ValueError, YAMLError, AttributeError, TypeError, KeyError, IndexError):
        return True


def _is_whole(entry: dict[str, Any]) -> bool:
    files = [file for kind in ("deps", "outs") if kind in entry for file in entry[kind]]
    hashed = all(file.get("hash") is None or file[file["hash"]] for file in files)
    return bool(entry["cmd"]) and hashed and None not in dict(entry.get("params", {})).values()


def _without_last_entry(text: str) -> str:
    starts = [found.start() for found in _STAGE.finditer(text)]
    return text[: starts[-1]] if len(starts) > 1 else ""


def recorded_md5(out: Path) -> str | None:
    """Return the hash of a stage's output in dvc.lock; None if it has no entry or dvc.lock cannot be read."""
    from ruamel.yaml import YAML, YAMLError

    try:
        stages = (YAML(typ="safe").load(LOCK.read_text()) or {}).get("stages", {})
        entries = [entry for stage in stages.values() for entry in stage.get("outs", [])]
        return next((entry.get("md5") for entry in entries if Path(entry["path"]) == out), None)
    except (OSError, ValueError, YAMLError, AttributeError, TypeError, KeyError):  # dvc may be writing the file
        return None


def written_at() -> int | None:
    """Return the time of the last change of dvc.lock in nanoseconds; None if it is missing.

    DVC writes it after every stage.
    """
    try:
        return LOCK.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def recorded_params() -> dict[str, dict[str, Any]]:
    """Return, for each stage, the parameters of its last run by key; empty if dvc.lock cannot be read."""
    from ruamel.yaml import YAML, YAMLError

    try:
        stages = (YAML(typ="safe").load(LOCK.read_text()) or {}).get("stages", {})
        return {name: (stage.get("params") or {}).get("params.yaml") or {} for name, stage in stages.items()}
    except (OSError, ValueError, YAMLError, AttributeError, TypeError):  # dvc may be writing the file
        return {}
