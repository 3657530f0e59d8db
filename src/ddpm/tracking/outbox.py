"""Metrics and pictures that a server has not taken yet: kept on disk in order and sent by a background thread.

An entry is removed after the server has taken it. The next process sends what a killed process left, so an entry may be
sent twice; entries carry their times and names, by which a server keeps one of each.
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
"""After this time without an answer, a message goes to stderr."""
_RETRY_SECONDS = 1.0

Values = dict[str, Any]
"""The content of an entry, as values that JSON can hold."""


@dataclass(frozen=True)
class _Entry:
    values: Values
    path: Path | None


class Outbox:
    """A queue of entries, oldest first. Each is also a file in `folder`; without a folder they end with the process."""

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
            except ValueError:  # a crash of the machine can leave half a file
                print(f"{path} is damaged, so its entry is dropped and not logged", file=sys.stderr)
                path.unlink()
            self._number = int(path.stem)

    def __len__(self) -> int:
        with self._lock:  # `drop` removes an entry and its file under this lock
            return len(self._entries)

    def put(self, values: Values) -> None:
        with self._lock:
            self._number += 1
            self._entries.append(_Entry(values, self._written(values)))

    def all(self) -> list[Values]:
        with self._lock:
            return [entry.values for entry in self._entries]

    def drop(self, n: int) -> None:
        """Remove the n oldest entries, which the server has taken."""
        with self._lock:
            for entry in [self._entries.popleft() for _ in range(n)]:
                if entry.path is not None:
                    entry.path.unlink(missing_ok=True)
            if not self._entries and self.folder is not None and self.folder.is_dir():
                self.folder.rmdir()

    def _written(self, values: Values) -> Path | None:
        if self.folder is None:
            return None
        path = self.folder / f"{self._number:012d}.json"
        try:
            write_json(path, values)
        except (OSError, ValueError) as error:
            print(f"{path} could not be written ({error}); it is sent unless this process is killed", file=sys.stderr)
            return None
        return path


class Sender:
    """A thread that sends the entries of an outbox. Only `settle` waits for it.

    `send` gets all entries, oldest first, returns how many of them it has sent, and raises if it fails.
    `where` names the receiver in messages.
    """

    def __init__(
        self, outbox: Outbox, send: Callable[[list[Values]], int], *, where: str, every_seconds: float
    ) -> None:
        self.outbox = outbox
        self.where = where
        self._send = send
        self._every = every_seconds
        self._wake = threading.Event()
        self._closed = False
        self._sending_since: float | None = None
        self._trouble: str | None = None
        self._was_reported = False
        threading.Thread(target=self._run, daemon=True, name="outbox").start()

    def put(self, values: Values) -> None:
        """Add an entry; return at once."""
        self.outbox.put(values)
        since = self._sending_since
        if since is not None and monotonic() - since > SILENT_SECONDS:
            self._report(f"{self.where} has not answered for {SILENT_SECONDS:g} s")

    def settle(self, seconds: float) -> None:
        """Wait until everything is sent. Raise UserError if the receiver takes nothing for `seconds`."""
        left, moved, was_reported = len(self.outbox), monotonic(), False
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
            elif waited > min(5.0, seconds / 2) and not was_reported:
                was_reported = True
                print(f"{now} entries wait for {self.where}, for {seconds:g} s at most", file=sys.stderr)
            self._wake.set()
            threading.Event().wait(0.02 if self._trouble is None else _RETRY_SECONDS)

    def close(self) -> None:
        """Stop sending."""
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
                except Exception as error:  # no error may stop the training; the entries are kept
                    self._trouble = redacted(" ".join(str(error).split())) or type(error).__name__
                    self._report(self._trouble)
                    break
                finally:
                    self._sending_since = None
                self.outbox.drop(n)
                self._trouble = None
                if self._was_reported:
                    self._was_reported = False
                    print(f"{self.where} answers again", file=sys.stderr)

    def _report(self, trouble: str) -> None:
        if not self._was_reported:
            self._was_reported = True
            print(f"{trouble}; {len(self.outbox)} entries {self._kept()}", file=sys.stderr)

    def _kept(self) -> str:
        return "wait here and are sent later" if self.outbox.folder is None else f"wait in {self.outbox.folder}"
