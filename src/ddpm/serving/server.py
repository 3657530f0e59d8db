"""`ddpm serve`: the model over HTTP as `mlflow models serve` offers it, within bounds that hold before it is asked.

POST /invocations with {"inputs": [{…}, …]} is answered with {"predictions": [{…}, …]} (pyfunc_model.py says what goes
in and out); GET /ping, /health and /version as MLflow does. A refusal is {"error_code": …, "message": one sentence}.
A body is read in pieces and given up when it is too large or too slow; work ends when its client has gone.
"""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from ddpm import __version__
from ddpm.errors import UserError
from ddpm.model_file import Model
from ddpm.serving.answering import INVALID, TIME_UP, TOO_MUCH, Answering, Bounds, Call, RefusedError, shortened

_CONNECTIONS = 64
"""Open at a time; more are answered 503 by uvicorn."""
_BODIES_TOGETHER = 4
"""So many of the largest are held at a time."""
_MOST_VALUES = 10_000
"""In the JSON of a body. The smallest value has two bytes there and more than thirty times as many in memory."""
_GRACE_SECONDS = 3
"""For answers under way when the server is told to end."""
_DRAINED_BODIES = 16
"""So many times the largest body is read and forgotten behind a refusal, for clients that listen only after talking."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Server:
    """An ASGI application around one model."""

    def __init__(self, model: Model, bounds: Bounds) -> None:
        self._answering, self._bounds = Answering(model, bounds), bounds
        self._room = _Room(_BODIES_TOGETHER * bounds.max_body_bytes)
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="answer")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request of ASGI."""
        if scope["type"] != "http":
            return
        body = _Body(receive, self._bounds.max_body_bytes, self._room)
        try:
            status, answer = await self._answer(scope, body)
        except RefusedError as refused:
            status, answer = refused.status, _refusal(refused.status, str(refused))
        finally:
            body.forget()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer, "more_body": not body.is_over})
        if not body.is_over:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._bounds.max_seconds):
                    await body.drain(_DRAINED_BODIES * self._bounds.max_body_bytes)
            await send({"type": "http.response.body", "body": b""})

    async def _answer(self, scope: Message, body: "_Body") -> tuple[int, bytes]:
        path, method = scope["path"], scope["method"]
        if path not in ("/invocations", "/ping", "/health", "/version"):
            raise RefusedError(404, "there is nothing here; POST to /invocations")
        if method != ("POST" if path == "/invocations" else "GET"):
            raise RefusedError(405, f"{path} does not take {method}")
        if path != "/invocations":
            return 200, __version__.encode() if path == "/version" else b"\n"
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            raise RefusedError(415, "the body is not said to be application/json; set the header Content-Type")
        call = Call(self._bounds.max_seconds)
        try:
            async with asyncio.timeout(self._bounds.max_seconds):
                content = await body.read(headers.get(b"content-length", b"0"))
        except TimeoutError:
            raise RefusedError(408, f"the body did not arrive within {self._bounds.max_seconds:g} seconds") from None
        return 200, await self._worked(content, call, body)

    async def _worked(self, content: bytes, call: Call, body: "_Body") -> bytes:
        """The answer, made in a thread whose work ends early where the client goes away."""
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._predictions, content, call)
        gone = asyncio.ensure_future(body.disconnected())
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                call.give_up()
            return await work
        finally:
            call.give_up()  # also where this task is cancelled: the server ends
            gone.cancel()

    def _predictions(self, content: bytes, call: Call) -> bytes:
        return json.dumps({"predictions": self._answering.answers(_inputs(content), call)}).encode()


@dataclass
class _Room:
    """Bytes for what has arrived of the bodies of all requests that are under way; what is only announced costs its
    client nothing, and would keep others out."""

    free: int


class _Body:
    """The body of one request, read in pieces."""

    def __init__(self, receive: Receive, max_bytes: int, room: _Room) -> None:
        self._receive, self._max_bytes, self._room = receive, max_bytes, room
        self._held = 0
        self.is_over = False
        """Nothing of it is still to come."""

    async def read(self, length: bytes) -> bytes:
        """All of it; `length` is what the client says. Raises RefusedError where it is larger than it may be."""
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
        """So many in all. Raises RefusedError where there is no room beside other bodies."""
        more = max(0, n_bytes - self._held)
        if more > self._room.free:
            raise RefusedError(
                TOO_MUCH,
                f"the body has {n_bytes} bytes so far, and {self._room.free} are free beside others; ask again later",
            )
        self._room.free -= more
        self._held += more

    def forget(self) -> None:
        """Its bytes are free again."""
        self._room.free += self._held
        self._held = 0

    async def drain(self, max_bytes: int) -> None:
        """Read on and keep nothing."""
        while not self.is_over and max_bytes > 0:
            max_bytes -= len(await self._piece())

    async def disconnected(self) -> None:
        """Returns when the client has gone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _piece(self) -> bytes:
        message = await self._receive()
        self.is_over = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message.get("body", b"")

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"the body is larger than {self._max_bytes} bytes; send fewer or smaller pictures")


def _inputs(content: bytes) -> Any:
    """What stands under `inputs`. Raises RefusedError for a body that is no such JSON."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    if sum(map(content.count, (b"{", b"[", b","))) > _MOST_VALUES:
        raise RefusedError(INVALID, f"the body holds more than {_MOST_VALUES} values; send fewer")
    try:
        told = json.loads(content, parse_constant=refuse)
    except RecursionError:
        raise RefusedError(INVALID, "the body is nested too deeply to be read as JSON") from None
    except ValueError as error:  # of JSON, of UTF-8, of a number of thousands of digits
        kind = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
        raise RefusedError(INVALID, f"the body cannot be read as {kind} ({error})") from None
    if not isinstance(told, dict) or told.keys() != {"inputs"}:
        raise RefusedError(INVALID, 'the body is not {"inputs": [{…}, …]}; send one object with this key alone')
    return told["inputs"]


def _refusal(status: int, sentence: str) -> bytes:
    name = "TIME_UP" if status == TIME_UP else HTTPStatus(status).name if status in list(HTTPStatus) else "GIVEN_UP"
    return json.dumps({"error_code": name, "message": shortened(sentence)}, ensure_ascii=False).encode()


def run(model: Model, called: str, bounds: Bounds, *, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; port 0 takes a free one. Raises UserError where the address cannot be had."""
    import uvicorn

    from ddpm.serving.connections import ImpatientProtocol

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen()
        except (OSError, OverflowError) as error:
            raise UserError(f"cannot listen on {host}, port {port} ({error}); choose another with --port") from None
        config = uvicorn.Config(
            Server(model, bounds),
            lifespan="off",
            log_level="warning",
            http=ImpatientProtocol,
            ws="none",
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        shown = f"[{host}]" if ":" in host else host
        print(f"{called} answers on http://{shown}:{listening.getsockname()[1]}/invocations", flush=True)
        uvicorn.Server(config).run(sockets=[listening])
