"""`janitor.py PID SERVER`: when process PID has ended, ends the Prefect server that it may have left behind."""

import sys
import time
from contextlib import suppress

import psutil

_POLL_SECONDS = 0.5


def main(pid: int, server_pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        server = psutil.Process(server_pid)
        while _is_alive(pid) and server.is_running():
            time.sleep(_POLL_SECONDS)
        server.terminate()  # raises NoSuchProcess for another process with the same pid


def _is_alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
