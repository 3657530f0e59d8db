"""A flow started by `python flows/NAME.py`: on the server there is, or on one of its own that ends with it."""

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx
import unreported
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId, TaskRunFilter
from prefect.client.schemas.filters import TaskRunFilterFlowRunId as OfFlowRun
from prefect.client.schemas.objects import State
from prefect.context import refresh_global_settings_context
from prefect.settings import PREFECT_API_URL, PREFECT_HOME

from ddpm.compute.identity import Identity
from ddpm.errors import UserError
from ddpm.redaction import redacted_output

_START_SECONDS = 120.0
_STOP_SECONDS = 10.0
_RECORD_SECONDS = 10.0


def run(a_flow: Callable[..., State], **parameters: Any) -> NoReturn:
    """Run the flow and exit: 0 when it completed, else 1 with its sentence on stderr; 130 after Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with redacted_output():
        sys.exit(_status_of(a_flow, **parameters))


def _status_of(a_flow: Callable[..., State], **parameters: Any) -> int:
    try:
        _hand_over_user()
        _ensure_server()
        state = a_flow(**parameters, return_state=True)
        _wait_for_records(state)
    except KeyboardInterrupt:
        return 130
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except httpx.TransportError as error:
        gone = f"the Prefect server at {PREFECT_API_URL.value()} went away ({error})"
        print(f"error: {gone}; start it and the flow again, which does only what is left", file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    if not state.is_completed():
        print(f"error: {state.message}", file=sys.stderr)
        return 1
    print(state.message)
    return 0


def _hand_over_user() -> None:
    """User and password of the server's address go where Prefect keeps them apart from it: it quotes addresses."""
    parts = urlsplit(PREFECT_API_URL.value() or "")
    user, at, host = parts.netloc.rpartition("@")
    if at:
        os.environ["PREFECT_API_URL"] = urlunsplit(parts._replace(netloc=host))
        os.environ["PREFECT_API_AUTH_STRING"] = unquote(user)
        refresh_global_settings_context()


def _ensure_server() -> None:
    """The server of PREFECT_API_URL, or one of our own until this process ends.

    Prefect would start a temporary one itself, but in our process group: Ctrl-C would end it before the flow
    could say how it ended, and SIGTERM and SIGKILL would leave it behind.
    """
    configured = PREFECT_API_URL.value()
    if configured:
        if not unreported.answers():
            raise UserError(
                f"no Prefect server answers at {configured}; start it with `prefect server start`, "
                "or unset PREFECT_API_URL (or choose PREFECT_PROFILE=ephemeral) to do without one"
            )
        return
    home = PREFECT_HOME.value()
    home.mkdir(parents=True, exist_ok=True)
    log = home / "temporary_server.log"
    address = f"http://127.0.0.1:{_free_port()}"
    process = _start(address, log)
    # Registered before Prefect's own, so it runs after them: they still send the last lines of the log.
    atexit.register(_stop, process)
    _wait_for_start(process, address, log)
    print(f"Prefect: {address} while this runs", flush=True)
    os.environ["PREFECT_API_URL"] = f"{address}/api"
    refresh_global_settings_context()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _start(address: str, log: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        # How often it writes down what it was told: it ends soon after the flow.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    }
    port = address.rpartition(":")[2]
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-scheduler", "--no-late-runs"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", port],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # The janitor ends the server should SIGKILL end us. Its own session keeps it out of what kills our group.
    those = [str(Identity.of(pid)) for pid in (os.getpid(), process.pid)]
    subprocess.Popen([sys.executable, str(Path(__file__).with_name("janitor.py")), *those], start_new_session=True)
    return process


def _wait_for_start(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while not _answers(f"{address}/api/health"):
        if process.poll() is not None or time.monotonic() > end:
            raise UserError(f"Prefect's server did not start within {_START_SECONDS:g} seconds; {log} says why")
        time.sleep(0.1)


def _answers(address: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _wait_for_records(state: State) -> None:
    """Until the server has written down how the tasks ended: ours would lose what it has not when it stops."""
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
