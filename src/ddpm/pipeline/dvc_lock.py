"""What DVC has recorded: the entries of dvc.lock in the working folder."""

from pathlib import Path

LOCK = Path("dvc.lock")


def recorded_md5(out: Path) -> str | None:
    """The hash under which a stage's output stands in dvc.lock; None where it does not, and where nobody can tell."""
    from ruamel.yaml import YAML, YAMLError

    try:
        stages = (YAML(typ="safe").load(LOCK.read_text()) or {}).get("stages", {})
        entries = [entry for stage in stages.values() for entry in stage.get("outs", [])]
        return next((entry.get("md5") for entry in entries if Path(entry["path"]) == out), None)
    except (OSError, ValueError, YAMLError, AttributeError, TypeError, KeyError):  # dvc may be writing it
        return None


def written_at() -> int | None:
    """When dvc.lock was written last, in nanoseconds; None where there is none. DVC writes it after every stage."""
    try:
        return LOCK.stat().st_mtime_ns
    except FileNotFoundError:
        return None
