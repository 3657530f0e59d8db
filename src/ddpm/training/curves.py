"""The curves of a training: means over logging intervals, as rows and as CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from ddpm.diffusion.schedules import wide
from ddpm.training.loop import Step

QUARTERS = tuple(f"loss_noise_quarter_{k}" for k in range(1, 5))
COLUMNS = ("images_seen", "loss", *QUARTERS, "gradient_norm", "learning_rate")
GROUP, DETAILS = "training/", "training_details/"
"""Beginnings of the names in the tracker, by which MLflow groups charts: what to look at first, and the rest."""
Row = dict[str, float | None]
"""One logging interval: a value for each of COLUMNS; None where the interval has no such value."""


class Meter:
    """Sums over the steps of a logging interval, without skipped steps, so that all sums are finite.

    They are added up on the device. QUARTERS are the losses in the quarters of the noise range, least noise first.
    """

    def __init__(self, device: torch.device, sums: Sequence[float] = ()) -> None:
        """Start at `sums`, those of another meter, or at zero."""
        self._sums = torch.tensor(sums or [0.0] * 11, dtype=wide(device), device=device)
        """Number of steps, sum of losses, sum of gradient norms; by quarter, sums of weighted losses and of weights."""

    def add(self, step: Step) -> None:
        """Add the step, without waiting for it."""
        quarters = torch.zeros(2, 4, device=step.t.device)
        quarters[0].index_add_(0, step.quarter, step.weights * step.losses)
        quarters[1].index_add_(0, step.quarter, step.weights)
        whole = torch.stack([torch.ones_like(step.loss), step.loss, step.gradient_norm])
        self._sums += torch.cat([whole, quarters.flatten()]).masked_fill(step.skipped, 0)

    def sums(self) -> list[float]:
        """Return the sums, from which a new meter goes on; this waits for the device."""
        return self._sums.tolist()

    def row(self, step: Step) -> Row:
        """Return the means of the interval that ends with this step; this waits for the device."""
        steps, loss, norm, *quarters = self.sums()
        means = _mean(loss, steps), *map(_mean, quarters[:4], quarters[4:]), _mean(norm, steps)
        return dict(zip(COLUMNS, (step.images_seen, *means, step.learning_rate), strict=True))


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None


def metrics_of(row: Row) -> dict[str, float]:
    """Return the values of a row that are not None, without images_seen, by their names in the tracker."""
    names = {"loss": f"{GROUP}loss"} | {name: f"{DETAILS}{name}" for name in COLUMNS[2:]}
    return {names[name]: value for name, value in row.items() if value is not None and name in names}


def write_curves(path: Path, curves: list[Row]) -> None:
    """Write CSV, one line per logging interval, with an empty cell for None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(curves)
