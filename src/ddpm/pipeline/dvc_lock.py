"""The entries of dvc.lock in the working folder, in which DVC records the results of the stages."""

from pathlib import Path
from typing import Any

LOCK = Path("dvc.lock")


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
