"""Close runs whose process has ended, then become a Prefect worker for this folder: `python flows/worker.py`.

It becomes `prefect worker start --pool ddpm --type process` (other options are passed on), with the server of
PREFECT_API_URL, or else the one at http://127.0.0.1:4200.
"""

import os
import sys
from contextlib import suppress

os.environ.setdefault("DO_NOT_TRACK", "1")  # prefect reads it when it is imported

import command_line
import stale_runs
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists

from ddpm.errors import UserError
from ddpm.redaction import redacted_output

_POOL = "ddpm"


def ensure_pool() -> None:
    """Make the work pool of the deployments. A worker makes one, too, but says that it is healthy before it has."""
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=_POOL, type="process"))


def main() -> None:
    with redacted_output():
        try:
            command_line.use_server()
            ensure_pool()
            stale_runs.close_stale(lambda sentence: print(sentence, flush=True))
        except UserError as error:
            sys.exit(f"error: {error}")
    start = ["-m", "prefect", "worker", "start", "--pool", _POOL, "--type", "process"]
    name = [] if "--name" in sys.argv else ["--name", stale_runs.worker_name()]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *start, *name, *sys.argv[1:]])


if __name__ == "__main__":
    main()
