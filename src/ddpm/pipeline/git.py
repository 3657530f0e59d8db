"""Git as a subprocess: no hooks, no questions, one sentence for a failure."""

import os
import subprocess
from pathlib import Path

from ddpm.errors import UserError

_SECONDS = 600.0
_OF_ANOTHER = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
"""Variables that a hook of git sets, which would lead to another repository than that of the folder."""


def git(*words: str, folder: Path, **environment: str) -> str:
    """Return what the command prints, without spaces around it. Raises UserError if it fails or is missing."""
    plain = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER}
    quiet = {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-c", f"core.hooksPath={os.devnull}", *words],
            cwd=folder,
            env=plain | quiet | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",  # names of files may be other bytes
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"git {words[0]} in {folder} did not end ({error}); install git, or run it by hand") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise UserError(f"git {words[0]} in {folder} failed ({said}); correct this, and start again")
    return done.stdout.strip()


def found(*words: str, folder: Path, **environment: str) -> str | None:
    """Return what the command prints; None if it fails."""
    try:
        return git(*words, folder=folder, **environment)
    except UserError:
        return None
