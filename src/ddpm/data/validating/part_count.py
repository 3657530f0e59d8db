"""Count the rows of one part of the manifest, as a worker does it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddpm.data import manifest
from ddpm.data.validating.rules import COUNTED, NAMED_ROWS, Rule, named
from ddpm.data.validating.tables import tables_of
from ddpm.data.validating.unique_places import runs_of

if TYPE_CHECKING:
    import pandas as pd

BRIGHTNESS_BARS = 32
_COLUMNS = [name for name in manifest.COLUMNS if name not in ("original_mode", "pixel_sha256", "std")]


@dataclass(frozen=True)
class CountTask:
    part: Path
    rules: tuple[Rule, ...]
    """Rules that are countable."""
    sha256: frozenset[str]
    """Digests of files whose kept copies are named."""
    per_reason: int
    """Largest number of rejected files that are named for each reason."""


@dataclass(frozen=True)
class PartCount:
    """Counters of one part, which are added up; see counting.Counted."""

    rows: dict[str, int]
    breaking: dict[str, int]
    named: dict[str, list[str]]
    classes: dict[str, Counter[str]]
    darkest: float
    brightest: float
    brightness: np.ndarray
    sides: Counter[float]
    rejected: dict[str, list[str]]
    copies: dict[str, str]
    places: dict[str | None, np.ndarray]
    """By split: unique_places.runs_of its indices."""


def count_part(task: CountTask) -> PartCount:
    """Count the part. Raises UserError if it is damaged."""
    tables = tables_of(manifest.read_part(task.part, _COLUMNS).to_pandas())
    files, images = tables["files"], tables["images"]
    broken = {rule: _rows_that_break(rule, tables[rule.table]) for rule in task.rules}
    copies = images[images["sha256"].isin(task.sha256)]
    rejected = files[files["status"] == "rejected"].groupby("reason")["path"]
    means = images["mean"].to_numpy()
    return PartCount(
        rows={name: len(tables[name]) for name in COUNTED},
        breaking={rule.name: len(rows) for rule, rows in broken.items()},
        named={
            rule.name: [named(rule, row) for row in rows[["path", *rule.columns]].head(NAMED_ROWS).to_dict("records")]
            for rule, rows in broken.items()
        },
        classes={split: Counter(tables[split]["label"].value_counts().to_dict()) for split in ("train", "test")},
        darkest=float(np.nanmin(means, initial=np.inf)),
        brightest=float(np.nanmax(means, initial=-np.inf)),
        brightness=np.histogram(means, bins=BRIGHTNESS_BARS, range=(0, 255))[0],
        sides=Counter(images["original_shorter_side"].value_counts().to_dict()),
        rejected={reason: list(paths.head(task.per_reason)) for reason, paths in rejected},
        copies=dict(zip(copies["sha256"], copies["path"], strict=True)),
        places={
            None if split != split else split: runs_of(index)
            for split, index in images.groupby("split", dropna=False)["index"]
        },
    )


def _rows_that_break(rule: Rule, table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the rows that break a countable rule. As in Great Expectations, a missing value breaks `not_null` only."""
    column = table[rule.columns[0]]
    if rule.check == "not_null":
        return table[column.isna()]
    if rule.check == "null":
        return table[column.notna()]
    if rule.check == "in_set":
        return table[column.notna() & ~column.isin(rule.values)]
    low, high = (-np.inf if rule.low is None else rule.low), (np.inf if rule.high is None else rule.high)
    return table[(column < low) | (column > high)]
