"""Requests of equal settings that wait at the same time are drawn in one batch; no bit of an image changes.

Nobody waits for a batch to fill: while one is drawn, the requests that arrive form the next one. On a GPU the size of a
batch changes the rounding, so requests are drawn one by one there (docs/exactness.md).
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm.generation.batch import Batch
from ddpm.generation.generate import sampling_steps
from ddpm.generation.recipe import Recipe
from ddpm.model_file import Model
from ddpm.sampling.samplers import last_of
from ddpm.serving import sample_request
from ddpm.serving.calls import CallsTogether, RefusedError, require_time, running_call
from ddpm.serving.sample_request import BATCH, SampleRequest, condition_of

MOST_OF_ONE = 8
"""Number of images of a request that waits for others; a larger one would let small ones wait, and gains less."""
_LOOK_SECONDS = 0.2
"""Time between two looks whether a call that waits must end."""


class _Waiting:
    """A request that waits for its images, uint8 [number,C,H,W]."""

    def __init__(self, request: SampleRequest) -> None:
        self.request, self.call = request, running_call.get()
        self.images: Tensor | None = None
        self.is_over = False
        """Whether the batch of this request has ended, with its images or without."""
        self.release: Callable[[], None] = lambda: None
        """Called when the batch has ended."""


class Batching:
    """Draws requests of one model. Can be used from any thread; each call returns with the images of its request."""

    def __init__(
        self, model: Model, held: Callable[[SampleRequest], Callable[[], None]] = lambda request: lambda: None
    ) -> None:
        """`held` counts the work of a request as running until the function that it returns is called."""
        self._model, self._held = model, held
        self._waiting: list[_Waiting] = []
        self._drawn_now: list[Recipe] = []
        """The settings of the batches that are being drawn, each of them once."""
        self._changed = threading.Condition()
        self._is_exact = next(model.network.parameters()).device.type == "cpu"

    def draw(self, request: SampleRequest) -> Tensor:
        """Return the images, uint8 [number,C,H,W], as `sample_request.draw`; raises what that raises."""
        if not self._is_exact or request.number > MOST_OF_ONE:
            return sample_request.draw(self._model, request)
        mine = _Waiting(request)
        group = self._next_group(mine)
        if len(group) > 1:
            try:
                self._draw(group)
            finally:
                self._end(group)
            group = []
        if mine.images is not None:
            require_time()
            return mine.images
        try:
            # The only one of its batch, or the batch failed: drawn alone, only the request that is the cause fails.
            return sample_request.draw(self._model, request)
        finally:
            if group:
                self._end(group)

    def _next_group(self, mine: _Waiting) -> list[_Waiting]:
        """Wait, and return the requests that this thread must draw; none if another thread has drawn `mine`.

        Raises RefusedError if the call of `mine` must end.
        """
        with self._changed:
            self._waiting.append(mine)
            try:
                while not mine.is_over:
                    if mine in self._waiting and mine.request.recipe not in self._drawn_now:
                        return self._begun(mine)
                    self._changed.wait(_LOOK_SECONDS)
                    require_time()
                return []
            except RefusedError:
                if mine not in self._waiting and not mine.is_over:  # its images are still drawn with those of others
                    mine.release = self._held(mine.request)
                raise
            finally:
                if mine in self._waiting:
                    self._waiting.remove(mine)

    def _begun(self, mine: _Waiting) -> list[_Waiting]:
        """Return `mine` and the requests that are drawn together with it; they wait no more."""
        group, number = [mine], mine.request.number
        for other in self._waiting:
            has_equal_settings = other is not mine and other.request.recipe == mine.request.recipe
            if has_equal_settings and number + other.request.number <= BATCH:
                group.append(other)
                number += other.request.number
        self._waiting = [each for each in self._waiting if each not in group]
        self._drawn_now.append(mine.request.recipe)
        return group

    def _draw(self, group: Sequence[_Waiting]) -> None:
        """Draw the images of these requests; if that fails, they stay without."""
        calls = [each.call for each in group if each.call is not None]
        token = running_call.set(CallsTogether(calls) if len(calls) == len(group) else None)
        try:
            drawn = draw_together(self._model, [each.request for each in group])
        except Exception:
            logging.getLogger(__name__).info("a batch was not drawn, so each of its requests is", exc_info=True)
            return
        finally:
            running_call.reset(token)
        for each, images in zip(group, drawn, strict=True):
            each.images = images

    def _end(self, group: Sequence[_Waiting]) -> None:
        with self._changed:
            self._drawn_now.remove(group[0].request.recipe)
            for each in group:
                each.is_over = True
                each.release()
            self._changed.notify_all()


@dataclass(frozen=True, eq=False, kw_only=True)
class _Joined(Batch):
    """The images of several requests, each with its own seed."""

    requests: Sequence[SampleRequest]

    @property
    def places(self) -> Sequence[tuple[int, int]]:
        """Those that every request has when it is drawn alone."""
        return [(each.seed, k) for each in self.requests for k in range(each.number)]


@torch.inference_mode()
def draw_together(model: Model, requests: Sequence[SampleRequest]) -> list[Tensor]:
    """Generate the images of requests with equal settings in one batch; return uint8 [number,C,H,W] for each."""
    conditions = [rows for request in requests if (rows := condition_of(request, model)) is not None]
    numbers = [request.number for request in requests]
    batch = _Joined(
        model=model,
        recipe=requests[0].recipe,
        seed=0,
        indices=range(sum(numbers)),
        condition=torch.cat(conditions) if conditions else None,
        requests=requests,
    )
    return list(batch.levels(last_of(sampling_steps(batch)).x_t).split(numbers))
