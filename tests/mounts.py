"""File systems that a test mounts, which the root user may."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_MOUNT = "no file system may be mounted here; run this test as root"


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[bool]:
    """Mount on the folder for the time of the block, which gets whether that is permitted here."""
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True)
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
