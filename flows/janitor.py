"""`janitor.py PROCESS SERVER`: when PROCESS has ended, ends the Prefect server that it may have left behind."""

import os
import signal
import sys
import time
from contextlib import suppress

from ddpm.compute.identity import Identity

_POLL_SECONDS = 0.5


def main(process: Identity, server: Identity) -> None:
    while process.is_alive() and server.is_alive():
        time.sleep(_POLL_SECONDS)
    if server.is_alive():
        with suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGTERM)


if __name__ == "__main__":
    main(Identity.parse(sys.argv[1]), Identity.parse(sys.argv[2]))
