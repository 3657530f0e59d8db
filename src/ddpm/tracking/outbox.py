"""Figures and pictures that a server has not taken yet: kept on disk in order and sent by a thread in the background.

An entry is removed when it was taken. What a killed process left is sent by the next one, so whatever is sent may be
sent twice: entries carry their times and names, by which a server keeps one of each.
"""

import json
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from ddpm.errors import UserError
from ddpm.files import write_json
from ddpm.redaction import redacted

SILENT_SECONDS = 30.0
"""After so long without an answer a person is told."""
_RETRY_SECONDS = 1.0

Told = dict[str, Any]


@dataclass(frozen=True)
class _Entry:
    told: Told
    path: Path | None


class Outbox:
    """Entries of plain data, oldest first, each a file in `folder` too; without a folder they end with the process."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._entries: deque[_Entry] = deque()
        self._number = 0
        self._lock = threading.Lock()
        if folder is not None:
            self._read(folder)

    def _read(self, folder: Path) -> None:
        for half_written in folder.glob("*.part"):
            half_written.unlink()
        for path in sorted(folder.glob("*.json")):
            try:
                self._entries.append(_Entry(json.loads(path.read_text()), path))
            except ValueError:  # what the machine's own end leaves of a file
                print(f"{path} is torn, so what it held is not logged", file=sys.stderr)
                path.unlink()
            self._number = int(path.stem)

    def __len__(self) -> int:
        with self._lock:  # what was taken has left the disk, too
            return len(self._entries)

    def put(self, told: Told) -> None:
        with self._lock:
            self._number += 1
            self._entries.append(_Entry(told, self._written(told)))

    def all(self) -> list[Told]:
        with self._lock:
            return [entry.told for entry in self._entries]

    def drop(self, n: int) -> None:
        """The n oldest were taken."""
        with self._lock:
            for entry in [self._entries.popleft() for _ in range(n)]:
                if entry.path is not None:
                    entry.path.unlink(missing_ok=True)
            if not self._entries and self.folder is not None and self.folder.is_dir():
                self.folder.rmdir()

    def _written(self, told: Told) -> Path | None:
        if self.folder is None:
            return None
        path = self.folder / f"{self._number:012d}.json"
        try:
            write_json(path, told)
        except (OSError, ValueError) as error:
            print(f"{path} could not be written ({error}); it is sent unless this process is killed", file=sys.stderr)
            return None
        return path


class Sender:
    """Sends an outbox in a thread of its own, which nobody waits for but `settle`.

    `send` gets all entries, oldest first, and returns how many of them it has sent; it raises where it cannot.
    `where` is told to a person: who takes the entries.
    """

    def __init__(self, outbox: Outbox, send: Callable[[list[Told]], int], *, where: str, every_seconds: float) -> None:
        self.outbox = outbox
        self.where = where
        self._send = send
        self._every = every_seconds
        self._wake = threading.Event()
        self._closed = False
        self._sending_since: float | None = None
        self._trouble: str | None = None
        self._is_told = False
        threading.Thread(target=self._run, daemon=True, name="outbox").start()

    def put(self, told: Told) -> None:
        """Returns at once."""
        self.outbox.put(told)
        since = self._sending_since
        if since is not None and monotonic() - since > SILENT_SECONDS:
            self._tell(f"{self.where} has not answered for {SILENT_SECONDS:g} s")

    def settle(self, seconds: float) -> None:
        """Waits until everything is sent. Raises UserError where nothing was taken for so many seconds."""
        left, moved, is_told = len(self.outbox), monotonic(), False
        while now := len(self.outbox):
            waited = monotonic() - moved
            if now < left:
                left, moved = now, monotonic()
            elif waited > seconds:
                why = self._trouble or f"{self.where} did not answer"
                kept = (
                    f", which wait in {self.outbox.folder}: the same command sends them" if self.outbox.folder else ""
                )
                raise UserError(f"{why}; in {seconds:g} s it took none of {now} entries{kept}")
            elif waited > min(5.0, seconds / 2) and not is_told:
                is_told = True
                print(f"{now} entries wait for {self.where}, for {seconds:g} s at most", file=sys.stderr)
            self._wake.set()
            threading.Event().wait(0.02 if self._trouble is None else _RETRY_SECONDS)

    def close(self) -> None:
        """Nothing more is sent."""
        self._closed = True
        self._wake.set()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._every)
            self._wake.clear()
            while not self._closed and (entries := self.outbox.all()):
                self._sending_since = monotonic()
                try:
                    n = self._send(entries)
                except Exception as error:  # whatever it is, the training goes on and the entries are kept
                    self._trouble = redacted(" ".join(str(error).split())) or type(error).__name__
                    self._tell(self._trouble)
                    break
                finally:
                    self._sending_since = None
                self.outbox.drop(n)
                self._trouble = None
                if self._is_told:
                    self._is_told = False
                    print(f"{self.where} answers again", file=sys.stderr)

    def _tell(self, trouble: str) -> None:
        if not self._is_told:
            self._is_told = True
            print(f"{trouble}; {len(self.outbox)} entries {self._kept()}", file=sys.stderr)

    def _kept(self) -> str:
        return "wait here and are sent later" if self.outbox.folder is None else f"wait in {self.outbox.folder}"
