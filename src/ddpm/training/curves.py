"""The curves of a training: means over logging intervals, as rows and as CSV."""

import csv
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ddpm.training.loop import Step

QUARTERS = tuple(f"loss_noise_quarter_{k}" for k in range(1, 5))
COLUMNS = ("images_seen", "loss", *QUARTERS, "gradient_norm", "learning_rate")
GROUP, DETAILS = "training/", "training_details/"
"""Beginnings of the names in the tracker, by which MLflow groups charts: what to look at first, and the rest."""
Row = dict[str, float | None]
"""One logging interval: a value for each of COLUMNS; None where the interval has no such value."""


@dataclass
class Meter:
    """Sums over the steps of a logging interval, without skipped steps, so that all sums are finite.

    QUARTERS are the losses in the quarters of the noise range, least noise first.
    """

    steps: int = 0
    loss: float = 0.0
    norm: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)
    counts: list[float] = field(default_factory=lambda: [0.0] * 4)

    def add(self, step: Step) -> None:
        if step.skipped:
            return
        sums = torch.zeros(2, 4, device=step.t.device)
        sums[0].index_add_(0, step.quarter, step.weights * step.losses)
        sums[1].index_add_(0, step.quarter, step.weights)
        losses, counts = sums.tolist()
        self.steps += 1
        self.loss += step.loss
        self.norm += step.gradient_norm
        self.sums = [a + b for a, b in zip(self.sums, losses, strict=True)]
        self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)]

    def row(self, step: Step) -> Row:
        """Return the means of the interval that ends with this step."""
        quarters = [_mean(s, c) for s, c in zip(self.sums, self.counts, strict=True)]
        loss, norm = _mean(self.loss, self.steps), _mean(self.norm, self.steps)
        return dict(zip(COLUMNS, (step.images_seen, loss, *quarters, norm, step.learning_rate), strict=True))


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
