"""Files that a killed process left half-made in the workspace: temporary files and checkpoints that are not whole."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ddpm.pipeline import checkout

STATE = Path(".state")
_FOLDERS = (Path("reports"), Path("models"), STATE)
_DATA = Path("data")
_CHECKPOINTS = ("checkpoint-*-????????????????.safetensors", "part-*-????????????????.safetensors")
_OTHERS = "locks"
"""A folder with this name marks a cache that processes of other workspaces share; it cleans up after itself."""


@dataclass(frozen=True)
class Leftover:
    """A file or folder that nothing can use any more."""

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{self.path} {self.why}"

    def remove(self) -> None:
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)


def find() -> list[Leftover]:
    """Return what is half-made in the working folder, which the checkout of retrainings is no part of.

    Without running processes nothing of it is in use.
    """
    return sorted([*_temporary(), *_torn_checkpoints()], key=lambda found: found.path)


def _temporary() -> Iterator[Leftover]:
    why = "was being written when its process ended"
    for path in _DATA.glob("*.part"):
        yield Leftover(path, why)
    for folder in _FOLDERS:
        for path in [*folder.rglob("*.part"), *folder.rglob("checkpoint-*/.tmp*"), *folder.glob("train/*/.tmp*")]:
            if checkout.FOLDER not in path.parents and not any((parent / _OTHERS).is_dir() for parent in path.parents):
                yield Leftover(path, why)


def _torn_checkpoints() -> Iterator[Leftover]:
    for path in [path for pattern in _CHECKPOINTS for path in STATE.glob(f"*/*/{pattern}") if path.is_file()]:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        if not path.stem.endswith(found):
            yield Leftover(path, f"is damaged: its content has the hash {found}, so no training continues from it")
