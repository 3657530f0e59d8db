"""`python -m ddpm.pipeline.keeper PROCESS`: keeps inherited files open, and so their locks held, until PROCESS ends.

For a `dvc` that a person typed, which cannot hold the lock of the workspace itself.
"""

import sys
import time

from ddpm.compute.identity import Identity

_POLL_SECONDS = 0.25


def main(process: Identity) -> None:
    while process.is_alive():
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    main(Identity.parse(sys.argv[1]))
