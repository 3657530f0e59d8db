"""A version, served by `ddpm serve` in a process of its own that loads it from the registry, as for a consumer."""

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm.errors import UserError

_PROGRAM = """
import os, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
from ddpm.cli import main
sys.exit(main())
"""
"""`ddpm`, which ends when its standard input ends, so that it never outlives the process that started it.

Python's own reader of standard input has a lock that would make every other end of the process a fatal error.
"""
_ADDRESS = re.compile(r"answers on http://127\.0\.0\.1:(\d+)/invocations")
_POLL_SECONDS = 0.05
_STOP_SECONDS = 10.0
_KILOBYTES = 1024 if sys.platform != "darwin" else 1


class FreshProcess:
    """A running `ddpm serve`."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process, self._log = process, log
        self._port: int | None = None
        self.memory_bytes = 0
        """The largest memory of the process (resident set), known after it has ended."""

    def wait_until_ready(self, seconds: float) -> float:
        """Wait until the server answers; return the seconds. Raises UserError with the process's last words."""
        began = time.monotonic()
        while not self._is_ready():
            if self._process.poll() is not None:
                raise UserError(f"it could not be served: {self._last_words()}")
            if time.monotonic() - began > seconds:
                raise UserError(f"it did not answer within {seconds:g} seconds after its start; {self._last_words()}")
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - began

    def ask(self, inputs: list[dict[str, Any]], *, seconds: float) -> "Answer":
        """Request images, within this time. Raises UserError for no answer; a refusal is an answer."""
        began = time.monotonic()
        status, content = self._request("POST", "/invocations", json.dumps({"inputs": inputs}), seconds)
        return Answer(status, json.loads(content), time.monotonic() - began)

    def end(self) -> None:
        """End the process, and read how much memory it used."""
        if self._process.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)
        end = time.monotonic() + _STOP_SECONDS
        while True:
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end:
                os.kill(self._process.pid, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.memory_bytes = usage.ru_maxrss * _KILOBYTES

    def _is_ready(self) -> bool:
        if self._port is None and (found := _ADDRESS.search(self._log.read_text(errors="replace"))):
            self._port = int(found[1])
        if self._port is None:
            return False
        try:
            return self._request("GET", "/ready", None, 60.0)[0] == 200
        except UserError:  # it has ended, or it is too slow
            return False

    def _request(self, method: str, path: str, body: str | None, seconds: float) -> tuple[int, bytes]:
        assert self._port is not None
        connection = HTTPConnection("127.0.0.1", self._port, timeout=seconds)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, HTTPException) as error:
            raise UserError(f"{path} was not answered within {seconds:g} seconds ({error!r})") from None
        finally:
            connection.close()

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"it said: {lines[-1]}" if lines else "it said nothing"


class Answer:
    """An answer of the served version."""

    def __init__(self, status: int, said: Mapping[str, Any], seconds: float) -> None:
        self.status, self.said, self.seconds = status, said, seconds

    @property
    def images(self) -> Tensor:
        """The images of all predictions, uint8 [N,C,H,W]."""
        found = [picture for prediction in self.said["predictions"] for picture in prediction["images"]]
        return torch.stack([_pixels(base64.b64decode(picture)) for picture in found])


@contextmanager
def served(name: str, number: str, *, device: str, threads: int | None) -> Iterator[FreshProcess]:
    """Serve a version of the registered model within the block, with so many threads (None: as by default)."""
    words = ["serve", "--name", name, "--version", number, "--device", device, "--port", "0"]
    environment = dict(os.environ) | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *words],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
            )
        fresh = FreshProcess(process, log)
        try:
            yield fresh
        finally:
            fresh.end()
            assert process.stdin is not None
            process.stdin.close()


def _pixels(content: bytes) -> Tensor:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as picture:
        pixels = torch.from_numpy(np.array(picture))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
