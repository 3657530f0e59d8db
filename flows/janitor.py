"""`janitor.py PID`: when process PID has ended, ends the temporary Prefect server that it left behind, if any.

Only after SIGKILL is there one: on every other way out Prefect stops it.
"""

import sys
import time
from contextlib import suppress

import psutil

_POLL_SECONDS = 0.5
_SERVER = "prefect.server.api.server:create_app"


def main(pid: int) -> None:
    servers: set[psutil.Process] = set()
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            servers |= {child for child in process.children() if _SERVER in _command(child)}
            time.sleep(_POLL_SECONDS)
    for server in servers:
        with suppress(psutil.NoSuchProcess):
            server.terminate()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


if __name__ == "__main__":
    main(int(sys.argv[1]))
