"""The curves of a training: means over logging intervals, as rows and as CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from ddpm.diffusion.schedules import wide
from ddpm.training.loop import Step
from ddpm.training.methods.diffusion import Diffusion

Row = dict[str, float | None]
"""One logging interval: a value for each of `columns`; None where the interval has no such value."""


def columns(terms: Sequence[str]) -> list[str]:
    """Return the columns of the curves of a method with these terms."""
    return ["images_seen", "loss", *terms, "gradient_norm", "learning_rate"]


class Meter:
    """Sums over the steps of a logging interval, without skipped steps, so that all sums are finite.

    They are added up on the device.
    """

    def __init__(
        self, device: torch.device, sums: Sequence[float] = (), *, terms: Sequence[str] = Diffusion.terms
    ) -> None:
        """Start at `sums`, those of another meter, or at zero. `terms` are those of the method."""
        self._terms = terms
        self._sums = torch.tensor(sums or [0.0] * (3 + 2 * len(terms)), dtype=wide(device), device=device)
        """Number of steps, sum of losses, sum of gradient norms; the sums of the terms, and their counts."""

    def add(self, step: Step) -> None:
        """Add the step, without waiting for it."""
        whole = torch.stack([torch.ones_like(step.loss), step.loss, step.gradient_norm])
        self._sums += torch.cat([whole, step.terms.flatten()]).masked_fill(step.skipped, 0)

    def sums(self) -> list[float]:
        """Return the sums, from which a new meter goes on; this waits for the device."""
        return self._sums.tolist()

    def row(self, step: Step) -> Row:
        """Return the means of the interval that ends with this step; this waits for the device."""
        steps, loss, norm, *terms = self.sums()
        number = len(self._terms)
        means = _mean(loss, steps), *map(_mean, terms[:number], terms[number:]), _mean(norm, steps)
        return dict(zip(columns(self._terms), (step.images_seen, *means, step.learning_rate), strict=True))


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None


def write_curves(path: Path, curves: list[Row]) -> None:
    """Write CSV, one line per logging interval, of which there is at least one, with an empty cell for None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, curves[0])
        writer.writeheader()
        writer.writerows(curves)
