"""A flow started by `python flows/NAME.py`: on the server there is, or on one of its own that ends with it."""

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
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx
import unreported
from prefect.client.schemas.objects import State
from prefect.context import refresh_global_settings_context
from prefect.settings import PREFECT_API_URL, PREFECT_HOME

from ddpm.errors import UserError
from ddpm.redaction import redacted_output

_START_SECONDS = 120.0
_SERVER = """
import sys, threading, uvicorn
config = uvicorn.Config(
    "prefect.server.api.server:create_app", factory=True, port=int(sys.argv[1]), timeout_graceful_shutdown=10
)
server = uvicorn.Server(config)

def end_with_flow():
    sys.stdin.read()
    server.should_exit = True

threading.Thread(target=end_with_flow, daemon=True).start()
server.run()
"""
"""Prefect's server until its standard input ends, which it does however the flow's process ends."""
_SERVER_SETTINGS = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    # It writes down what it was told this often, and ends soon after the flow.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
}
_open_until_this_process_ends: list[subprocess.Popen[bytes]] = []


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

    Prefect would start a temporary one itself, but within 20 seconds, which a busy machine needs longer for, and in our
    process group: Ctrl-C would end it before the flow could say how it ended, and SIGKILL would leave it behind.
    """
    configured = PREFECT_API_URL.value()
    if configured:
        if not unreported.answers():
            raise UserError(
                f"no Prefect server answers at {configured}; start it with `prefect server start`, "
                "or unset PREFECT_API_URL (or choose PREFECT_PROFILE=ephemeral) to do without one"
            )
        return
    address = f"http://127.0.0.1:{_free_port()}"
    _start_server(address)
    print(f"Prefect: {address} while this runs", flush=True)
    os.environ["PREFECT_API_URL"] = f"{address}/api"
    refresh_global_settings_context()


def _start_server(address: str) -> None:
    home = PREFECT_HOME.value()
    home.mkdir(parents=True, exist_ok=True)
    log = home / "temporary_server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, address.rpartition(":")[2]],
            env=os.environ | _SERVER_SETTINGS,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _open_until_this_process_ends.append(process)
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
