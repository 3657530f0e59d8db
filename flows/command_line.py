"""A flow started by `python flows/NAME.py`: on the server there is, or on a temporary one that ends with it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId, TaskRunFilter
from prefect.client.schemas.filters import TaskRunFilterFlowRunId as OfFlowRun
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL

_RECORD_SECONDS = 10.0


def run(a_flow: Callable[..., State], **parameters: Any) -> NoReturn:
    """Run the flow and exit: 0 when it completed, else 1 with its sentence on stderr."""
    # Without this, SIGTERM would leave the temporary server behind: only a normal exit stops it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with _server():
            state = a_flow(**parameters, return_state=True)
            if not PREFECT_API_URL.value():
                _wait_for_records(state)
    except KeyboardInterrupt:
        sys.exit(130)
    except RuntimeError as error:
        if "Failed to reach API" not in str(error):
            raise
        print(
            f"error: no Prefect server answers at {PREFECT_API_URL.value()}; start it with `prefect server start`, "
            "or do without one: PREFECT_PROFILE=ephemeral",
            file=sys.stderr,
        )
        sys.exit(1)
    if not state.is_completed():
        print(f"error: {state.message}", file=sys.stderr)
        sys.exit(1)
    print(state.message)
    sys.exit(0)


@contextmanager
def _server() -> Iterator[None]:
    """Where no server is configured, Prefect starts a temporary one; it must not outlive this process."""
    if PREFECT_API_URL.value():
        yield
        return
    # How often that server writes down what it was told. It ends soon after the flow.
    os.environ.setdefault("PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL", "1")
    os.environ.setdefault("PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL", "1")
    janitor = Path(__file__).with_name("janitor.py")
    # In a session of its own, so that what kills this process and its group does not kill the janitor.
    subprocess.Popen([sys.executable, str(janitor), str(os.getpid())], start_new_session=True)
    yield


def _wait_for_records(state: State) -> None:
    """Until the temporary server has written down how the tasks ended; it loses what it has not when it stops."""
    flow_run = state.state_details.flow_run_id
    if flow_run is None:
        return
    with get_client(sync_client=True) as client:
        below = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run]))
        )
        flow_runs = [flow_run, *(each.id for each in below)]
        end = time.monotonic() + _RECORD_SECONDS
        while time.monotonic() < end:
            time.sleep(0.5)
            runs = client.read_task_runs(task_run_filter=TaskRunFilter(flow_run_id=OfFlowRun(any_=flow_runs)))
            if all(each.state is not None and each.state.is_final() for each in runs):
                return
