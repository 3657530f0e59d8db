"""A version in the shadow of the served one: it draws the same requests after their answers, and answers nobody.

It gives way: it draws only while no call runs, so a server that is never idle drops what its shadow should have drawn,
and says how much. Only requests for new images by the served version's own recipe and with a seed that the server drew
are drawn again; features are kept in memory, images are not.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ddpm.canary.kept import Kept
from ddpm.errors import UserError
from ddpm.model_file import Model
from ddpm.serving import sample_request
from ddpm.serving.drawn import Drawn
from ddpm.serving.window import Window

_WAITING = 16
"""Answers whose requests wait to be drawn again; further ones are dropped."""
_TIMES = 200
"""Last images whose time counts."""
_LOOK_SECONDS = 0.02
"""Time between two looks whether a call runs."""
_KEEP_SECONDS = 60.0
"""Time between two records of the figures."""


class Figures:
    """What one of the two versions did with the requests that both drew."""

    def __init__(self, number: str, window: Window | None) -> None:
        """`window` is None without measured images to compare with."""
        self.number, self._window = number, window
        self.requests = self.errors = 0
        self._seconds: deque[float] = deque(maxlen=_TIMES)

    def drew(self, drawn: Drawn) -> None:
        """Count a request that was drawn."""
        self.requests += 1
        if drawn.seconds is not None:
            self._seconds.append(drawn.seconds / len(drawn.images))
        if self._window is not None:
            try:
                self._window.add(drawn.images, drawn.labels)
            except UserError as error:  # as weights of the extractor that are missing here
                logging.getLogger(__name__).warning("no distance of version %s is measured: %s", self.number, error)
                self._window = None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values; None for what is not known (yet)."""
        times, found = sorted(self._seconds), None if self._window is None else self._window.drift
        return {
            "version": self.number,
            "requests": self.requests,
            "errors": self.errors,
            "seconds_of_one_image": times[len(times) // 2] if times else None,
            "distance": None if found is None else found.distance,
            "distance_by_chance": None if found is None else found.by_chance,
        }


class Shadow:
    """One version beside the served ones. Can be used from any thread; nothing here raises or waits for the shadow."""

    def __init__(
        self,
        model: Model,
        number: str,
        *,
        images: int,
        kept_of: Callable[[str], Kept | None],
        keep: Callable[[Mapping[str, Any]], object] = lambda figures: None,
    ) -> None:
        """Begin to draw with this model, the version `number`.

        `kept_of` returns what is kept with a version, to measure the distance of its last `images` images; None if it
        has none. `keep` stores the figures.
        """
        self.number = number
        self._model, self._images, self._kept_of, self._keep = model, images, kept_of, keep
        self._queue: queue.Queue[tuple[str, Drawn]] = queue.Queue(_WAITING)
        self._both: tuple[Figures, Figures] | None = None
        """Of the served version and of this one; they begin anew when another version is served."""
        self.dropped = 0
        """Requests that the shadow had no time to draw."""
        self._is_busy: Callable[[], bool] = lambda: False
        self._paused = 0.0
        self._kept_at, self._is_new = time.monotonic(), False
        # A function, not the method: the network's copy for bf16 (`cast_weights`) would copy the shadow with it.
        for each in filter(None, (model, model.base)):
            each.network.register_forward_pre_hook(lambda *_: self._give_way())
        threading.Thread(target=self._draw_for_ever, daemon=True, name="shadow").start()

    def beside(self, is_busy: Callable[[], bool]) -> None:
        """Draw only while this is false."""
        self._is_busy = is_busy

    def drew(self, served: str, drawn: Drawn) -> None:
        """Draw the request of this served version again later, or count it as dropped if too many wait."""
        if served == self.number:
            return
        try:
            self._queue.put_nowait((served, drawn))
        except queue.Full:
            self.dropped += 1

    def failed(self, served: str) -> None:
        """Count an error of the served version."""
        if self._both is not None and self._both[0].number == served:
            self._both[0].errors += 1

    def to_json(self) -> dict[str, Any]:
        """Return the figures of both versions as plain values; `served` is None before the first request."""
        both = self._both
        return {
            "served": None if both is None else both[0].to_json(),
            "shadow": (Figures(self.number, None) if both is None else both[1]).to_json(),
            "dropped": self.dropped,
        }

    def keep(self) -> None:
        """Store the figures, if there are any. A failure is logged."""
        if self._both is None:
            return
        self._kept_at, self._is_new = time.monotonic(), False
        try:
            self._keep(self.to_json())
        except Exception as error:  # of a registry, in many ways
            logging.getLogger(__name__).warning("the figures of the shadow were not stored: %s", error)

    def _draw_for_ever(self) -> None:
        while True:
            try:
                self._draw(*self._queue.get(timeout=_KEEP_SECONDS))
                self._is_new = True
            except queue.Empty:
                pass
            except Exception:  # the server must go on
                logging.getLogger(__name__).exception("an answer could not be compared with the shadow")
            if self._is_new and time.monotonic() > self._kept_at + _KEEP_SECONDS:
                self.keep()

    def _draw(self, served: str, drawn: Drawn) -> None:
        if self._both is None or self._both[0].number != served:
            if self._both is not None:
                self.keep()  # those of the version before are complete
                self.dropped = 0
            self._both = Figures(served, self._window_of(served)), Figures(self.number, self._window_of(self.number))
        of_served, own = self._both
        try:
            request = sample_request.complete(drawn.fields, self._model)
            self._give_way()
            began, self._paused = time.monotonic(), 0.0
            images = sample_request.draw(self._model, request)
            seconds = time.monotonic() - began - self._paused
        except Exception as error:
            own.errors += 1
            if own.errors == 1:
                logging.getLogger(__name__).warning("the shadow, version %s, failed", self.number, exc_info=error)
            return
        self._give_way()
        of_served.drew(drawn)
        self._give_way()
        # Time counts where both were alone: an image of many takes less than a single one.
        compared = None if drawn.seconds is None else seconds
        own.drew(Drawn(drawn.fields, images, sample_request.labels_of(request, self._model), compared))

    def _window_of(self, number: str) -> Window | None:
        kept = self._kept_of(number)
        device = next(self._model.network.parameters()).device
        return None if kept is None else Window(kept, self._images, device)

    def _give_way(self) -> None:
        """Wait until no call runs. This is called before every network evaluation of the shadow, too."""
        began = time.monotonic()
        while self._is_busy():
            time.sleep(_LOOK_SECONDS)
        self._paused += time.monotonic() - began
