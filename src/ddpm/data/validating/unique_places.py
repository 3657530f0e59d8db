"""Find images with the same split and index, by the runs of consecutive indices in each part of the manifest.

A part that `prepare` wrote has one run per split, so the memory is that of the number of parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddpm.data import manifest
from ddpm.data.validating.rules import NAMED_ROWS, Rule, named

if TYPE_CHECKING:
    import pandas as pd

_NO_INDEX = -1
"""Stands for a missing index, which no image has."""


def runs_of(index: "pd.Series") -> np.ndarray:
    """Return int64 [R,2]: the indices as sorted runs [start, stop); an index that occurs twice is in two runs."""
    ordered = np.sort(index.fillna(_NO_INDEX).to_numpy(np.int64))
    first = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 2) != 1)
    last = np.append(first[1:], len(ordered)) - 1
    return np.stack([ordered[first], ordered[last] + 1], axis=1)


def repeated(runs: Sequence[np.ndarray]) -> np.ndarray:
    """Return int64 [K,2]: sorted intervals [start, stop) that at least two of the runs contain."""
    every = np.concatenate(runs)
    points = every.ravel()
    order = np.lexsort((np.tile([1, -1], len(every)), points))  # a run ends before another begins at the same place
    depth = np.cumsum(np.tile([1, -1], len(every))[order])
    ends = np.append(points[order][1:], points[order][-1:])
    found = np.stack([points[order], ends], axis=1)[depth > 1]
    return found[found[:, 0] < found[:, 1]]


@dataclass(frozen=True)
class SharedTask:
    part: Path
    rule: Rule
    intervals: Mapping[str | None, np.ndarray]
    """By split: indices that several images have, from `repeated`."""


def shared_places(task: SharedTask) -> tuple[int, list[str]]:
    """Return how many images of the part share their place with another one, and the first of them as texts."""
    files = manifest.read_part(task.part, ["path", "status", *task.rule.columns]).to_pandas()
    images = files[files["status"] == "kept"]
    shared = np.zeros(len(images), bool)
    index = images["index"].fillna(_NO_INDEX).to_numpy(np.int64)
    for split, intervals in task.intervals.items():
        own = (images["split"].isna() if split is None else images["split"] == split).to_numpy(bool)
        place = np.searchsorted(intervals[:, 0], index, side="right") - 1
        shared |= own & (place >= 0) & (index < intervals[place, 1])
    rows = images[shared]
    return len(rows), [named(task.rule, row) for row in rows.head(NAMED_ROWS).to_dict("records")]
