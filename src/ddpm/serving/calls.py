"""A running call: when its work must end, how much work all calls may do together, and why a call is refused."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ddpm.errors import UserError

INVALID, TOO_MUCH, GIVEN_UP, FAILED, TIME_UP = 400, 429, 499, 500, 504
"""HTTP status codes of refusals; 499 is never sent, because the client has disconnected."""
_LONGEST_SENTENCE = 400
"""Characters of a refusal; a longer one repeats the client's input, so its middle is removed."""


class RefusedError(UserError):
    """A call is refused. The sentence is sent to the client and contains no paths of this machine."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(shortened(sentence))
        self.status = status


@dataclass(frozen=True)
class Bounds:
    """The limits of served work, from section `serve` of params.yaml. Work is network evaluations times pixels."""

    max_work: int
    """Work of one call."""
    max_work_together: int
    """Work of all running calls; a new call gets at most half of what is free, so that a small one always fits."""
    max_seconds: float
    """Time of one call, from its arrival."""
    max_body_bytes: int
    """Size of the body of one call to `ddpm serve`."""


class Call:
    """A running call. Its work ends at the first network evaluation after its time limit or a disconnection."""

    def __init__(self, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._end = time.monotonic() + max_seconds
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """End the work of this call. Can be called from any thread."""
        self._given_up.set()

    def require_time(self) -> None:
        """Raise RefusedError if the call must end."""
        if self._given_up.is_set():
            raise RefusedError(GIVEN_UP, "the client has disconnected, so the work of its call was stopped")
        if time.monotonic() > self._end:
            raise RefusedError(
                TIME_UP, f"the images took longer than {self._max_seconds:g} seconds; request fewer images or steps"
            )


class CallsTogether(Call):
    """Calls whose images are drawn in one batch, which ends when the last of them must end."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls

    def give_up(self) -> None:
        for call in self._calls:
            call.give_up()

    def require_time(self) -> None:
        for call in self._calls[:-1]:
            try:
                return call.require_time()
            except RefusedError:
                continue
        self._calls[-1].require_time()


running_call: ContextVar[Call | None] = ContextVar("running_call", default=None)
"""The call whose work the present thread does."""


def require_time(*_: Any) -> None:
    """Raise RefusedError if the running call must end; also a hook that torch calls before a network."""
    call = running_call.get()
    if call is not None:
        call.require_time()


class Budget:
    """The work of all running calls, within the bounds. Several models can share one."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._lock, self._work = threading.Lock(), 0
        self.calls = 0
        """The number of calls that have begun."""

    @property
    def work(self) -> int:
        """The work of all running calls."""
        return self._work

    @contextmanager
    def admitted(self, needed: int) -> Iterator[None]:
        """Count the work as running inside the block. Raises RefusedError if it exceeds a limit."""
        most = self.bounds.max_work
        if needed > most:
            raise RefusedError(
                TOO_MUCH,
                f"the call needs {needed} network evaluations times pixels, expected at most {most}; "
                "request fewer images, steps or resamplings",
            )
        with self._lock:
            free = self.bounds.max_work_together - self._work
            if 2 * needed > free:
                raise RefusedError(
                    TOO_MUCH,
                    f"the call needs {needed} network evaluations times pixels, and at most {free // 2} are free "
                    f"beside the {self._work} of running calls; try again later or request less",
                )
            self._work += needed
            self.calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._work -= needed

    def held(self, needed: int) -> Callable[[], None]:
        """Count the work as running until the returned function is called; it may exceed what is free."""
        with self._lock:
            self._work += needed

        def release() -> None:
            with self._lock:
                self._work -= needed

        return release


def shortened(sentence: str) -> str:
    """Return the sentence on one line, with its middle removed if it is longer than _LONGEST_SENTENCE."""
    if len(sentence) > _LONGEST_SENTENCE:
        sentence = f"{sentence[: _LONGEST_SENTENCE // 2]} … {sentence[3 - _LONGEST_SENTENCE // 2 :]}"
    return " ".join(sentence.split())
