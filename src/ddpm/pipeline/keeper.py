"""`python -m ddpm.pipeline.keeper PID`: keep inherited files open, and so their locks, until that process ends.

A `dvc` that a person started cannot keep the lock of the workspace itself.
"""

import sys
import time
from contextlib import suppress

import psutil

_POLL_SECONDS = 0.25


def main(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    main(int(sys.argv[1]))
