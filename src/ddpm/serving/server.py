"""`ddpm serve`: a model over HTTP, with the interface of `mlflow models serve` and with limits for every request.

The answer to POST /invocations with {"inputs": [{…}, …]} is {"predictions": [{…}, …]} (pyfunc_model.py has the fields).
GET /ping, /health and /version answer as MLflow does, GET /model says what is served, and GET / is a page for people.
GET /ready answers 503 until the served model has drawn an image, and GET /metrics has counters for Prometheus.
A body {"inputs": …, "version": "2"} is answered by another version of the same registered model. `notice` in an answer
says that the served model is not the champion. A refusal is {"error_code": …, "message": one sentence}.
A body is read in pieces and refused if it is too large or too slow. Work ends when its client disconnects.
"""

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ddpm import __version__
from ddpm.errors import UserError
from ddpm.serving import page
from ddpm.serving.calls import FAILED, INVALID, TIME_UP, TOO_MUCH, Bounds, Call, RefusedError, shortened
from ddpm.serving.metrics import ServerMetrics
from ddpm.serving.own_site import require_own_host, require_own_site
from ddpm.serving.page import Document
from ddpm.serving.served_models import ServedModels

if TYPE_CHECKING:
    import uvicorn

NOT_READY = 503
_CALLS = "/invocations"
_CONNECTIONS = 64
"""Number of open connections; uvicorn answers more with 503."""
_BODIES_TOGETHER = 4
"""Memory for the bodies of all requests, as a multiple of the largest body."""
_MOST_VALUES = 10_000
"""Number of values in the JSON of a body. The smallest value has 2 bytes in JSON and more than 60 in memory."""
_GRACE_SECONDS = 3
"""Time for running answers after a signal to stop."""
_DRAINED_BODIES = 16
"""After a refusal, this multiple of the largest body is read and dropped, for clients that read only after sending."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


class Server:
    """An ASGI application around the served models. It accepts requests for localhost, IP addresses and these hosts."""

    def __init__(self, models: ServedModels, bounds: Bounds, *, hosts: Collection[str] = ()) -> None:
        self._models, self._bounds, self._hosts = models, bounds, frozenset(host.lower() for host in hosts)
        self._room = _Room(_BODIES_TOGETHER * bounds.max_body_bytes)
        self._metrics = ServerMetrics(models)
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="answer")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request of ASGI."""
        if scope["type"] != "http":
            return
        began = time.monotonic()
        body = _Body(receive, self._bounds.max_body_bytes, self._room)
        try:
            status, answer = 200, await self._answer(scope, body)
        except RefusedError as refused:
            status, answer = refused.status, Document("application/json", _refusal(refused.status, str(refused)))
        finally:
            body.forget()
        if scope["path"] == _CALLS:
            self._metrics.called(status, time.monotonic() - began)
        named = _HEADERS | {"content-type": answer.kind, "content-length": str(len(answer.content))} | answer.headers
        headers = [(name.encode(), value.encode()) for name, value in named.items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.content, "more_body": not body.is_over})
        if not body.is_over:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._bounds.max_seconds):
                    await body.drain(_DRAINED_BODIES * self._bounds.max_body_bytes)
            await send({"type": "http.response.body", "body": b""})

    async def _answer(self, scope: Message, body: "_Body") -> Document:
        path, method, headers = scope["path"], scope["method"], dict(scope["headers"])
        require_own_host(headers, self._hosts)
        documents: dict[str, Callable[[], Document]] = {
            "/": lambda: page.page(self._models),
            "/model": lambda: Document("application/json", json.dumps(page.facts(self._models)).encode()),
            "/ping": lambda: Document("text/plain", b"\n"),
            "/health": lambda: Document("text/plain", b"\n"),
            "/ready": self._ready,
            "/metrics": lambda: Document("text/plain; version=0.0.4; charset=utf-8", self._metrics.text()),
            "/version": lambda: Document("text/plain", __version__.encode()),
        } | {f"/{name}": partial(page.file, name) for name in page.FILES}
        if path not in documents and path != _CALLS:
            raise RefusedError(404, "the path is unknown; POST to /invocations, or open / in a browser")
        if method != ("POST" if path == _CALLS else "GET"):
            raise RefusedError(405, f"{path} does not take {method}")
        if path in documents:
            return documents[path]()
        require_own_site(headers)
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            raise RefusedError(415, "the header Content-Type is not application/json; set it and send JSON")
        call = Call(self._bounds.max_seconds)
        try:
            async with asyncio.timeout(self._bounds.max_seconds):
                content = await body.read(headers.get(b"content-length", b"0"))
        except TimeoutError:
            raise RefusedError(408, f"the body did not arrive within {self._bounds.max_seconds:g} seconds") from None
        return Document("application/json", await self._worked(content, call, body))

    def _ready(self) -> Document:
        """Return that this server is ready. Raises RefusedError with 503 if it is not."""
        if not self._models.is_ready:
            raise RefusedError(NOT_READY, "the model has not drawn an image yet; ask again in a second")
        return Document("application/json", json.dumps({"ready": True, "model": self._models.current.called}).encode())

    async def _worked(self, content: bytes, call: Call, body: "_Body") -> bytes:
        """Compute the answer in a thread; its work ends early if the client disconnects."""
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._predictions, content, call)
        gone = asyncio.ensure_future(body.disconnected())
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                call.give_up()
            return await work
        finally:
            call.give_up()  # the task may have been cancelled because the server stops
            gone.cancel()

    def _predictions(self, content: bytes, call: Call) -> bytes:
        message = _message(content)
        with self._models.named(message.get("version"), call) as served:
            status = 200
            try:
                answer: dict[str, Any] = {"predictions": served.answering.answers(message["inputs"], call)}
            except RefusedError as refused:
                status = refused.status
                raise
            finally:
                if served.watching is not None:
                    served.watching.answered(status)
                if status == FAILED and served.number is not None and self._models.shadow is not None:
                    self._models.shadow.failed(served.number)
        notice = self._models.notice
        return json.dumps(answer | ({} if notice is None else {"notice": notice})).encode()


@dataclass
class _Room:
    """The memory that is free for the bodies of all requests, in bytes.

    Only bytes that have arrived count: if announced bytes counted, a client could keep others out without sending any.
    """

    free: int


class _Body:
    """The body of one request, read in pieces."""

    def __init__(self, receive: Receive, max_bytes: int, room: _Room) -> None:
        self._receive, self._max_bytes, self._room = receive, max_bytes, room
        self._held = 0
        self.is_over = False
        """Whether the whole body has arrived, or the client has disconnected."""

    async def read(self, length: bytes) -> bytes:
        """Return the whole body; `length` is the header Content-Length. Raises RefusedError if it is too large."""
        if not length.isdigit() or int(length) > self._max_bytes:
            raise self._too_large()
        pieces, n = [], 0
        while not self.is_over:
            piece = await self._piece()
            n += len(piece)
            if n > self._max_bytes:
                raise self._too_large()
            self._hold(n)
            pieces.append(piece)
        return b"".join(pieces)

    def _hold(self, n_bytes: int) -> None:
        """Reserve memory for `n_bytes` of this body in total. Raises RefusedError if other bodies use it."""
        more = max(0, n_bytes - self._held)
        if more > self._room.free:
            raise RefusedError(
                TOO_MUCH,
                f"the body has {n_bytes} bytes so far, and {self._room.free} are free beside others; try again later",
            )
        self._room.free -= more
        self._held += more

    def forget(self) -> None:
        """Release the memory of this body."""
        self._room.free += self._held
        self._held = 0

    async def drain(self, max_bytes: int) -> None:
        """Read up to `max_bytes` of the rest and drop them."""
        while not self.is_over and max_bytes > 0:
            max_bytes -= len(await self._piece())

    async def disconnected(self) -> None:
        """Return when the client has disconnected."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _piece(self) -> bytes:
        message = await self._receive()
        self.is_over = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message.get("body", b"")

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"the body is larger than {self._max_bytes} bytes; send fewer or smaller pictures")


def _message(content: bytes) -> dict[str, Any]:
    """Return the body: `inputs`, and maybe `version`. Raises RefusedError for anything else than this in JSON."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not a number in JSON")

    if sum(map(content.count, (b"{", b"[", b","))) > _MOST_VALUES:
        raise RefusedError(INVALID, f"the body has more than {_MOST_VALUES} values; send fewer")
    try:
        message = json.loads(content, parse_constant=refuse)
    except RecursionError:
        raise RefusedError(INVALID, "the body is nested too deeply to be read as JSON") from None
    except ValueError as error:  # wrong JSON, wrong UTF-8, or a number with thousands of digits
        kind = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
        raise RefusedError(INVALID, f"the body cannot be read as {kind} ({error})") from None
    if not isinstance(message, dict) or "inputs" not in message or not message.keys() <= {"inputs", "version"}:
        raise RefusedError(
            INVALID, 'the body is not {"inputs": [{…}, …]}; send one object with only this key, or also with "version"'
        )
    return message


def _refusal(status: int, sentence: str) -> bytes:
    name = "TIME_UP" if status == TIME_UP else HTTPStatus(status).name if status in list(HTTPStatus) else "GIVEN_UP"
    return json.dumps({"error_code": name, "message": shortened(sentence)}, ensure_ascii=False).encode()


def web_server(application: Server) -> "uvicorn.Server":
    """Return the HTTP server around the application, not yet running."""
    import uvicorn

    from ddpm.serving.connections import ImpatientProtocol

    return uvicorn.Server(
        uvicorn.Config(
            application,
            lifespan="off",
            log_level="warning",
            http=ImpatientProtocol,
            ws="none",
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            server_header=False,
        )
    )


def run(
    models: ServedModels,
    bounds: Bounds,
    *,
    host: str,
    port: int,
    hosts: Collection[str] = (),
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until SIGINT or SIGTERM; port 0 is any free port. Raises UserError if the address cannot be used.

    `hosts` are further names of this machine, and `ready` gets the address of the page when the port is open.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen()
        except (OSError, OverflowError) as error:
            raise UserError(f"cannot listen on {host}, port {port} ({error}); choose another with --port") from None
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}/"
        print(f"{models.current.called} answers on {address}invocations, and its page is {address}", flush=True)
        models.follow()
        ready(address)
        web_server(Server(models, bounds, hosts=(host, *hosts))).run(sockets=[listening])
