"""Do two sets of pictures come from one distribution? A permutation test of several distances together.

If they do, every division of all pictures into two sets of these sizes is equally likely, so the observed distances are
no larger than those of random divisions but by chance. This holds for any distances and any numbers of pictures, so the
share of false alarms is at most the stated one, and not only for many pictures. The distances are judged together by
the smallest of their p-values, whose own distribution over the divisions is known (Westfall and Young 1993); so several
distances that say the same cost less power than Bonferroni's bound.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ddpm.drifting import statistics
from ddpm.seeding import seed_of

_DIVISIONS_PER_ALARM = 10
"""Random divisions are this number over the share of false alarms, so that a threshold lies between divisions."""
_TOGETHER = 256
"""Divisions in memory at a time."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""Maps divisions, bool [B,N], to distances, float64 [B]."""


@dataclass(frozen=True, eq=False)
class Sample:
    """What is known of N pictures, one entry each."""

    features: np.ndarray
    """float64 [N,D]"""
    brightness: np.ndarray
    """[N]: means of the prepared pixels, 0 to 255."""
    contrast: np.ndarray
    """[N]: standard deviations of the prepared pixels."""
    side: np.ndarray
    """[N]: shorter sides of the original pictures, in pixels."""
    aspect: np.ndarray
    """[N]: width over height of the original pictures."""
    classes: tuple[str, ...] | None
    """Names of the N classes; None if some picture has none."""

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, eq=False)
class Compared:
    """One distance of the two sets."""

    name: str
    """`frechet`, `kernel`, `shares`, `brightness`, `contrast`, `side` or `aspect`."""
    value: float
    threshold: float
    """What it may reach if nothing differs: the largest value that raises no alarm."""
    alike: np.ndarray
    """The distances of random divisions."""
    p: float
    """Share of the divisions in which some distance is as far out as this one: its p-value among all distances."""
    drifted: bool


@dataclass(frozen=True)
class Answer:
    """Whether two sets differ, and in which distances."""

    p: float
    drifted: bool
    compared: tuple[Compared, ...]


def compare(incoming: Sample, reference: Sample, *, false_alarms: float) -> Answer:
    """Return whether the two sets differ; of sets that do not, at most the share `false_alarms` is said to.

    Both sets need two pictures. The divisions are seeded, so the same sets get the same answer.
    """
    n, total = len(incoming), len(incoming) + len(reference)
    found = statistics_of(incoming, reference)
    divisions = _divisions(n, total, int(np.ceil(_DIVISIONS_PER_ALARM / false_alarms)))
    values = np.stack([_in_parts(function, divisions) for function in found.values()], axis=1)
    single = _shares_at_least(values)
    smallest = single.min(axis=1)
    joint = float(_rank(smallest, values)[0])
    drifted = joint <= false_alarms
    critical = np.quantile(smallest, false_alarms, method="lower")
    thresholds = np.quantile(values, max(0.0, 1 - critical), axis=0, method="higher")
    each = [float(np.mean(smallest <= own)) for own in single[0]]
    return Answer(
        joint,
        drifted,
        tuple(
            Compared(
                name,
                float(values[0, k]),
                float(thresholds[k]),
                values[1:, k],
                each[k],
                drifted and bool(each[k] <= false_alarms or single[0, k] == smallest[0]),
            )
            for k, name in enumerate(found)
        ),
    )


def statistics_of(incoming: Sample, reference: Sample) -> dict[str, Statistic]:
    """Return the distances of the two sets by name; pictures of the first set come first in a division."""

    def both(name: str) -> np.ndarray:
        return np.concatenate([getattr(incoming, name), getattr(reference, name)])

    features = both("features")
    found: dict[str, Statistic] = {
        "frechet": partial(statistics.frechet, features),
        "kernel": partial(statistics.kernel, features),
    }
    if incoming.classes is not None and reference.classes is not None:
        classes = np.unique([*incoming.classes, *reference.classes], return_inverse=True)[1]
        found["shares"] = partial(statistics.shares, classes)
    for name in ("brightness", "contrast", "side", "aspect"):
        found[name] = partial(statistics.largest_gap, both(name))
    return found


def _divisions(n: int, total: int, count: int) -> np.ndarray:
    """Return the observed division and `count` random ones, bool [1 + count,total]."""
    random = np.random.default_rng(seed_of("divisions", n, total))
    observed = np.arange(total) < n
    return np.concatenate([observed[None], random.permuted(np.tile(observed, (count, 1)), axis=1)])


def _in_parts(function: Statistic, divisions: np.ndarray) -> np.ndarray:
    parts = range(0, len(divisions), _TOGETHER)
    return np.round(np.concatenate([function(divisions[start : start + _TOGETHER]) for start in parts]), 12)


def _shares_at_least(values: np.ndarray) -> np.ndarray:
    """Return, for each value of a column, the share of the column that is at least as large: [B,K]."""
    ordered = np.sort(values, axis=0)
    below = [np.searchsorted(ordered[:, k], values[:, k], side="left") for k in range(values.shape[1])]
    return 1 - np.stack(below, axis=1) / len(values)


def _rank(smallest: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return, for each division, the share of divisions that are at least as extreme: [B].

    Divisions with the same smallest p-value, as of all whose distance is the largest of its column, are ordered by how
    many standard deviations their largest distance is above the mean.
    """
    spread = values.std(axis=0)
    away = ((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)).max(axis=1)
    key = np.stack([smallest, -away], axis=1)
    _, number, counts = np.unique(key, axis=0, return_inverse=True, return_counts=True)
    return np.cumsum(counts)[number.ravel()] / len(values)
