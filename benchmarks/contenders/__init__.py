"""Those who train on the same images for the same time: this project, diffusers, denoising-diffusion-pytorch.

Each is trained by its own training code and drawn from by its own sampler; what was chosen for it stands beside the
code that says so and in the report.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from common import Images
from torch import Tensor

RAW, EMA = "raw", "EMA"
REPLAN_AT = (0.25, 0.5, 0.75, 0.9, 0.97)
"""Shares of the time after which the length of a training is planned anew by the speed so far."""
RESERVE = 0.01
"""Share of the time left that a plan leaves free, so that the learning rate's decay ends in time."""
TOO_SHORT = 0.05
"""Share of the time that a plan's end may leave; a slow start, badly measured, would leave more."""


@dataclass(frozen=True)
class Setting:
    """How images are drawn."""

    name: str
    evaluations: int
    """Of the network, for one image."""
    told: dict[str, Any] = field(default_factory=dict, compare=False)


Draw = Callable[[int, int, Setting], Tensor]
"""(n, seed, setting) -> uint8 [n,C,H,W] on the CPU."""


class Contender(Protocol):
    name: str
    ladder: tuple[Setting, ...]
    """Settings of its fast samplers, cheapest first."""
    default: Setting
    """The one its FID is measured with: fast, at good quality."""
    weights: str | None
    """Those it hands out; None: raw or EMA, whichever are better."""

    def choices(self) -> str:
        """What was chosen for it: sentences for the report."""

    def train(self, images: Images, budget: "Budget", folder: Path) -> list[str]:
        """Trains within the budget and writes its weights below the folder; returns their names."""

    def drawer(self, folder: Path, weights: str) -> Draw:
        """Draws with weights of that name in the folder."""


class Budget:
    """Wall-clock time for one training, from its making on, and the speed in it.

    The first step is over before the speed is measured; its time is part of the budget all the same.
    """

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.done = 0
        """Images seen."""
        self._clock = clock
        self._began = clock()
        self._paused = 0.0
        self._first: tuple[float, int] | None = None
        self._ended: float | None = None
        self._planned: int | None = None
        first_plan = min(15.0, 0.05 * seconds)
        self._plans = [first_plan, *(share * seconds for share in REPLAN_AT if share * seconds > first_plan)]

    @property
    def spent(self) -> float:
        """Seconds, without pauses, until now or until `end`."""
        return (self._clock() if self._ended is None else self._ended) - self._began - self._paused

    @property
    def left(self) -> float:
        return self.seconds - self.spent

    @property
    def over(self) -> bool:
        return self.left <= 0

    def note(self, done: int) -> None:
        """So many images have been seen."""
        self.done = done
        if self._first is None:
            self._first = (self.spent, done)

    def plan(self) -> int | None:
        """Images that fit into the whole budget at the speed so far; None unless a plan is due.

        One is due after the first seconds and at REPLAN_AT, and where the plan before has ended far too early.
        """
        if self._first is None or self.done == self._first[1]:
            return None
        since = self.spent - self._first[0]
        too_short = self._planned is not None and self.done >= self._planned and self.left > TOO_SHORT * self.seconds
        if not too_short and (not self._plans or since < self._plans[0]):
            return None
        while self._plans and since >= self._plans[0]:
            self._plans.pop(0)
        speed = (self.done - self._first[1]) / since
        self._planned = self.done + max(1, round(speed * self.left * (1 - RESERVE)))
        return self._planned

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What happens in it is no training."""
        began = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - began

    def end(self) -> None:
        """The training has ended; writing its weights does not count."""
        self._ended = self._clock()


def in_batches(n: int, batch: int, draw: Callable[[int, int], Tensor]) -> Tensor:
    """`draw(first, size)` for consecutive batches of at most `batch` images, put together."""
    return torch.cat([draw(first, min(batch, n - first)) for first in range(0, n, batch)])


def class_names(images: Images) -> list[str]:
    """Names of the classes, their numbers where they have no names; empty without labels."""
    if images.train_labels is None:
        return []
    return list(images.classes) or [str(k) for k in range(int(images.train_labels.max()) + 1)]
