"""Watch the answers of a served version: the distance of what it draws, its time and its errors, against its record.

Only pictures that the version drew from noise by its own recipe are looked at, never those that people sent. Features
are kept in memory, pictures are not.
"""

import logging
import queue
import random
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddpm.canary.drift import Drift
from ddpm.canary.kept import Kept
from ddpm.errors import UserError
from ddpm.serving.drawn import Drawn
from ddpm.serving.settings import Watch
from ddpm.serving.window import Window

_WAITING = 16
"""Answers that wait to be looked at; further ones are not looked at."""
_CALLS = 200
"""Last calls whose outcome counts for the share of errors, and last answers whose time counts."""
_FEWEST_CALLS = 50


@dataclass(frozen=True)
class Record:
    """What a version was found to be before it became champion."""

    kept: Kept | None
    seconds_of_one_image: float | None
    """By the canary; None if it was skipped."""


@dataclass(frozen=True)
class Crossing:
    """A limit that a version's answers have crossed."""

    limit: str
    """The key of params.yaml."""
    sentence: str


class Watching:
    """The watch over one served version. Each limit is reported once. Can be used from any thread."""

    def __init__(self, record: Record, limits: Watch, device: torch.device, report: Callable[[Crossing], None]) -> None:
        self._record, self._limits, self._report = record, limits, report
        self._queue: queue.Queue[tuple[Tensor, Tensor | None] | None] = queue.Queue(_WAITING)
        self._window = None if record.kept is None else Window(record.kept, limits.images, device)
        self._seconds: deque[float] = deque(maxlen=_CALLS)
        self._failed: deque[bool] = deque(maxlen=_CALLS)
        self._crossed: set[str] = set()
        self._ended = False
        self._thread = threading.Thread(target=self._look_for_ever, daemon=True, name="watch")
        self._thread.start()

    def drew(self, drawn: Drawn) -> None:
        """Look at these images later, or at none of them: only a share of the answers counts."""
        if drawn.seconds is not None:
            self._seconds.append(drawn.seconds / len(drawn.images))
            self._require_speed()
        if random.random() < self._limits.share:
            try:
                self._queue.put_nowait((drawn.images, drawn.labels))
            except queue.Full:
                return

    def answered(self, status: int) -> None:
        """Count the outcome of a call of this version, by its HTTP status: 500 is an error of the version.

        Other numbers above 500 are not: a client that asks for long work can run into the limit of time.
        """
        self._failed.append(status == 500)
        share = sum(self._failed) / len(self._failed)
        if len(self._failed) >= _FEWEST_CALLS and share > self._limits.max_error_share:
            self._cross(
                "watch.max_error_share",
                f"{share:.1%} of the last {len(self._failed)} calls failed, expected at most "
                f"{self._limits.max_error_share:.1%}",
            )

    def end(self) -> None:
        """Look at nothing more. Never waits, because the thread that looks may have ended."""
        self._ended = True
        with suppress(queue.Full):  # what takes an answer from a full queue sees _ended next
            self._queue.put_nowait(None)

    @property
    def drift(self) -> Drift | None:
        """The last one measured."""
        return None if self._window is None else self._window.drift

    @property
    def looked_at(self) -> int:
        """The number of images whose features were computed."""
        return 0 if self._window is None else self._window.seen

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        times = sorted(self._seconds)
        return {
            "images": self.looked_at,
            "distance": None if self.drift is None else self.drift.distance,
            "distance_by_chance": None if self.drift is None else self.drift.by_chance,
            "seconds_of_one_image": times[len(times) // 2] if times else None,
            "crossed": sorted(self._crossed),
        }

    def _require_speed(self) -> None:
        known, times = self._record.seconds_of_one_image, sorted(self._seconds)
        if known is None or len(times) < _FEWEST_CALLS:
            return
        median = times[len(times) // 2]
        if median > self._limits.max_slower * known:
            self._cross(
                "watch.max_slower",
                f"an image takes {median:.3g} seconds (median), which is more than {self._limits.max_slower:g} times "
                f"the {known:.3g} seconds before it became champion",
            )

    def _look_for_ever(self) -> None:
        while (answer := self._queue.get()) is not None and not self._ended:
            try:
                self._look(*answer)
            except UserError as error:  # as weights of the extractor that are missing here
                logging.getLogger(__name__).warning("answers are not watched: %s", error)
                return
            except Exception:  # the server must go on
                logging.getLogger(__name__).exception("an answer could not be watched")

    def _look(self, images: Tensor, labels: Tensor | None) -> None:
        if self._window is None or (found := self._window.add(images, labels)) is None:
            return
        limit = self._limits.max_distance * found.by_chance
        if not found.distance <= limit:
            self._cross(
                "watch.max_distance",
                f"the last {self._limits.images} images have the Fréchet distance {found.distance:.3g} from the "
                f"measured ones, expected at most {limit:.3g}",
            )

    def _cross(self, limit: str, sentence: str) -> None:
        if limit in self._crossed:
            return
        self._crossed.add(limit)
        crossing = Crossing(limit, f"{sentence} ({limit})")
        # In a thread: the report waits for other servers, and the caller answers requests.
        threading.Thread(target=self._report, args=(crossing,), daemon=True, name="limit crossed").start()
