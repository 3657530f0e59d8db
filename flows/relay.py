"""A relay for events: what object stores and git hosts send over HTTP starts a retraining.

`python flows/relay.py` listens on 127.0.0.1. POST /git takes webhooks of GitHub (and of hosts that send the same, such
as Gitea and Forgejo), signed with DDPM_RELAY_GIT_SECRET; POST /store takes notifications of S3 and MinIO with the token
of DDPM_RELAY_STORE_TOKEN. A path whose secret is not set does not exist. GET /health answers whoever asks.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("DO_NOT_TRACK", "1")  # prefect reads it when it is imported

import command_line
import event_run
import httpx
import uvicorn
from deliveries import Deliveries
from events import Event, NotAnEventError, from_git, from_store, is_signed, is_token
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, PrefectException
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ddpm.errors import UserError
from ddpm.params import load as load_params
from ddpm.pipeline.settings import Retrain
from ddpm.redaction import redact_logs, redacted_output
from ddpm.serving.connections import ImpatientProtocol

GIT_SECRET, STORE_TOKEN = "DDPM_RELAY_GIT_SECRET", "DDPM_RELAY_STORE_TOKEN"
DELIVERIES = Path(".state/relay.sqlite")
DEPLOYMENT = "retrain/nightly"
_LEAST_CHARACTERS = 16
"""A shorter secret could be guessed."""
_READ_SECONDS = 10.0
"""Longest time in which the body of a request arrives."""
_AT_A_TIME = 32
"""Connections at most; further ones get status 503."""
_log = logging.getLogger("ddpm.relay")


class Relay:
    """Turns events into runs of the deployment: one for each event, and one for all that come while it waits."""

    def __init__(self, settings: Retrain, deliveries: Deliveries) -> None:
        self._settings, self._deliveries = settings, deliveries
        self._one_at_a_time = asyncio.Lock()

    async def start(self, event: Event) -> str:
        """Return the id of the flow run that answers the event; the same event again gets the same run."""
        async with self._one_at_a_time, get_client() as client:
            if (known := self._deliveries.run_of(event.key)) is not None:
                return known
            deployment = await client.read_deployment_by_name(DEPLOYMENT)
            wait = self._settings.event_wait_seconds
            run = await event_run.waiting_or_new(client, deployment.id, event.because, seconds=wait, key=event.key)
            self._deliveries.note(event.key, str(run.id))
            return str(run.id)

    async def answer(
        self, request: Request, allowed: Callable[[bytes], bool], read: Callable[[bytes], Event | None]
    ) -> Response:
        """Return the answer to a request; a body that is not allowed is not interpreted."""
        try:
            body = await asyncio.wait_for(_body(request, self._settings.event_body_bytes), _READ_SECONDS)
        except TimeoutError:
            return _said(408, "the body did not arrive in time")
        if body is None:
            return _said(413, f"the body is larger than {self._settings.event_body_bytes} bytes")
        if not allowed(body):
            return _refused()
        try:
            event = read(body)
        except NotAnEventError as error:
            return _said(400, str(error))
        if event is None:
            return _said(200, "nothing to do for this event")
        try:
            run = await self.start(event)
        except ObjectNotFound:
            _log.error("Prefect has no deployment %s; create it with `prefect deploy --all`", DEPLOYMENT)
        except (httpx.HTTPError, PrefectException) as error:
            _log.error("Prefect did not take a run for %s (%s)", event.because, error)
        else:
            _log.info("%s: run %s", event.because, run)
            return JSONResponse({"run": run}, 202)
        return _said(503, "no retraining could be started; the relay's log says why")


def app(settings: Retrain, deliveries: Deliveries, *, git_secret: str | None, store_token: str | None) -> Starlette:
    """Return the relay as an ASGI application; a path without a secret answers 404."""
    relay = Relay(settings, deliveries)

    async def git(request: Request) -> Response:
        signature, kind = (request.headers.get(name, "") for name in ("x-hub-signature-256", "x-github-event"))
        return await relay.answer(
            request, lambda body: is_signed(body, signature, git_secret or ""), lambda body: from_git(kind, body)
        )

    async def store(request: Request) -> Response:
        if not is_token(request.headers.get("authorization", ""), store_token or ""):
            return _refused()
        return await relay.answer(request, lambda body: True, from_store)

    routes = [
        Route(path, answer, methods=["POST"])
        for path, answer, secret in (("/git", git, git_secret), ("/store", store, store_token))
        if secret is not None
    ]
    return Starlette(routes=[*routes, Route("/health", _healthy)])


async def _healthy(request: Request) -> Response:
    return _said(200, "the relay answers")


async def _body(request: Request, most: int) -> bytes | None:
    """Return the body; None as soon as it is longer than `most` bytes."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            return None
    return bytes(body)


def _refused() -> Response:
    return _said(401, "the request is not signed as this relay expects")


def _said(status: int, sentence: str) -> Response:
    return JSONResponse({"message": sentence}, status)


def _secret(name: str) -> str | None:
    """Return the secret of a variable; None if it is not set. Raises UserError for one that could be guessed."""
    secret = os.environ.get(name)
    if secret is not None and len(secret) < _LEAST_CHARACTERS:
        raise UserError(
            f"{name} has {len(secret)} characters, expected {_LEAST_CHARACTERS} or more; make one with "
            "`openssl rand -hex 32`"
        )
    return secret


def _start(host: str, port: int) -> None:
    git_secret, store_token = _secret(GIT_SECRET), _secret(STORE_TOKEN)
    if git_secret is None and store_token is None:
        raise UserError(
            f"neither {GIT_SECRET} nor {STORE_TOKEN} is set, expected the secret that the sender signs with; make one "
            "with `openssl rand -hex 32`, and give it to both"
        )
    settings = load_params().retrain
    command_line.use_server()
    relay = app(settings, Deliveries(DELIVERIES), git_secret=git_secret, store_token=store_token)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    redact_logs()
    _log.info("relay: http://%s:%s", host, port)
    uvicorn.run(
        relay,
        host=host,
        port=port,
        limit_concurrency=_AT_A_TIME,
        http=ImpatientProtocol,  # also ends connections that send nothing
        access_log=False,
        log_level="warning",
        server_header=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: only this machine)")
    parser.add_argument("--port", type=int, default=4210, help="port to listen on (default: 4210)")
    args = parser.parse_args()
    with redacted_output():
        try:
            _start(args.host, args.port)
        except UserError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
