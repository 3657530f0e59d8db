"""The start of a flow by `python flows/NAME.py`, with the configured Prefect server or with a temporary one."""

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
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_SERVER_API_PORT

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
"""Program of a Prefect server that stops when its standard input ends: whenever and however the flow's process ends."""
_SERVER_SETTINGS = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    # Store events every second, because the server stops soon after the flow.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
}
_open_until_this_process_ends: list[subprocess.Popen[bytes]] = []
"""Servers whose standard input must stay open."""


def run(a_flow: Callable[..., State], **parameters: Any) -> NoReturn:
    """Run the flow and exit: with 0 if it completed, 130 after Ctrl-C, otherwise 1 with one sentence on stderr."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with redacted_output():
        sys.exit(_status_of(a_flow, **parameters))


def _status_of(a_flow: Callable[..., State], **parameters: Any) -> int:
    try:
        _move_credentials()
        _ensure_server()
        state = a_flow(**parameters, return_state=True)
    except KeyboardInterrupt:
        return 130
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except httpx.TransportError as error:
        lost = f"the Prefect server at {PREFECT_API_URL.value()} stopped answering ({error})"
        print(f"error: {lost}; start it and run the flow again, which skips finished stages", file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    if not state.is_completed():
        print(f"error: {state.message}", file=sys.stderr)
        return 1
    print(state.message)
    return 0


def use_server() -> None:
    """Use the server of PREFECT_API_URL, or else the one that `prefect server start` starts on this machine.

    Raises UserError if it does not answer.
    """
    _move_credentials()
    if not PREFECT_API_URL.value():
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{PREFECT_SERVER_API_PORT.value()}/api"
        refresh_global_settings_context()
    if not unreported.answers():
        raise UserError(
            f"no Prefect server answers at {PREFECT_API_URL.value()}; start it with `prefect server start`, "
            "or name another one in PREFECT_API_URL"
        )


def find_server() -> bool:
    """Use the server that answers, or else a temporary one if this folder has a database; return whether there is one.

    A temporary server ends with this process.
    """
    configured = PREFECT_API_URL.value()
    with suppress(UserError):
        use_server()
        return True
    if configured or not (PREFECT_HOME.value() / "prefect.db").exists():
        return False
    os.environ.pop("PREFECT_API_URL", None)
    refresh_global_settings_context()
    _ensure_server(quiet=True)
    return True


def _move_credentials() -> None:
    """Move user and password from the server's address to PREFECT_API_AUTH_STRING, because Prefect logs addresses."""
    parts = urlsplit(PREFECT_API_URL.value() or "")
    user, at, host = parts.netloc.rpartition("@")
    if at:
        os.environ["PREFECT_API_URL"] = urlunsplit(parts._replace(netloc=host))
        os.environ["PREFECT_API_AUTH_STRING"] = unquote(user)
        refresh_global_settings_context()


def _ensure_server(*, quiet: bool = False) -> None:
    """Use the server of PREFECT_API_URL; without one, start a server that stops with this process.

    Raises UserError if the server of PREFECT_API_URL does not answer, or if the own server does not start.

    Prefect could start a temporary server itself. But it waits at most 20 seconds, which is too short on a busy
    machine, and the server is in the process group of the flow: Ctrl-C would stop it before the flow reports its end,
    and after SIGKILL of the flow it would keep running.
    """
    configured = PREFECT_API_URL.value()
    if configured:
        if not unreported.answers():
            raise UserError(
                f"no Prefect server answers at {configured}; start it with `prefect server start`, "
                "or unset PREFECT_API_URL (or set PREFECT_PROFILE=ephemeral) to use a temporary server"
            )
        return
    address = f"http://127.0.0.1:{_free_port()}"
    _start_server(address)
    print(f"Prefect: {address} while this runs", file=sys.stderr if quiet else sys.stdout, flush=True)
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
            raise UserError(f"Prefect's server did not start within {_START_SECONDS:g} seconds; see {log}")
        time.sleep(0.1)


def _answers(address: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
