"""A server with its page in this process, around tiny models in a registry in memory."""

import json
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from registry_in_memory import RegistryInMemory
from versions_to_serve import keep, write_extractor
from waiting import HANG_SECONDS, wait_for

from ddpm.generation.recipe import load_model
from ddpm.promotion.registry import CHAMPION, version
from ddpm.serving.calls import Bounds
from ddpm.serving.served_models import ServedModels
from ddpm.serving.server import Server, web_server
from ddpm.serving.shadow import Shadow

BOUNDS = Bounds(max_work=10**6, max_work_together=4 * 10**6, max_seconds=60, max_body_bytes=10**6)
RECORD = {"fid": 0.5, "floor": {"fid": 0.25}}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass
class Site:
    port: int
    models: ServedModels

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def get(self, path: str = "/", **headers: str) -> Answer:
        return self._ask("GET", path, None, headers)

    def post(self, body: Any, **headers: str) -> Answer:
        return self._ask("POST", "/invocations", json.dumps(body), {"Content-Type": "application/json"} | headers)

    def prediction(self, version: str | None = None, **fields: Any) -> dict[str, Any]:
        """The answer to one good request."""
        answer = self.post({"inputs": [fields]} | ({} if version is None else {"version": version}))
        assert answer.status == 200, answer.content
        return answer.json["predictions"][0]

    def _ask(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=HANG_SECONDS)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()


class Files(RegistryInMemory):
    """A registry whose versions have files of their own: N.safetensors in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "1.safetensors")
        self.folder = folder
        self.is_silent = False

    def versions(self) -> list[Any]:
        if self.is_silent:
            raise OSError(110, "timed out", "/root/secret")
        return super().versions()

    def _read(self, name: str) -> dict[str, Any]:
        if self.is_silent:
            raise OSError(110, "timed out", "/root/secret")
        return super()._read(name)

    def load(self, found: Any) -> Any:
        return load_model(self.folder / f"{found.number}.safetensors")


def two_versions(folder: Path, tiny_model: Callable[..., str]) -> Files:
    """Two versions with what was kept of both; none is the champion yet."""
    files = Files(folder)
    extractor = write_extractor(folder / "extractor.safetensors")
    for seed, number in enumerate("12"):
        model = folder / f"{number}.safetensors"
        tiny_model(model, seed=seed)
        files.register(RECORD)
        kept = keep(model, folder / f"kept-{number}.safetensors", extractor=extractor, inverted=False)
        files.keep_file(number, kept)
    return files


def served_from(
    files: Files, *, number: str | None = None, bounds: Bounds = BOUNDS, shadow: Shadow | None = None
) -> ServedModels:
    """The champion, which is followed, or this version."""
    first = version(files, number or files.aliases[CHAMPION])
    return ServedModels(
        files.load(first),
        files.name,
        bounds,
        version=first,
        registry=files,
        load=files.load,
        follows=number is None,
        shadow=shadow,
    )


@contextmanager
def running(models: ServedModels, *, bounds: Bounds = BOUNDS, hosts: Collection[str] = ()) -> Iterator[Site]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = web_server(Server(models, bounds, hosts=hosts))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield Site(listening.getsockname()[1], models)
        finally:
            server.should_exit = True
            thread.join()
