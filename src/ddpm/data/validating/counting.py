"""Count the whole manifest: counters of its parts are added up, in memory that does not grow with its rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ddpm.compute.executors import Crew, Pieces, in_order
from ddpm.data import manifest
from ddpm.data.validating.part_count import BRIGHTNESS_BARS, CountTask, PartCount, count_part
from ddpm.data.validating.rules import COUNTED, NAMED_ROWS, SAME_AS_IN_TRAIN, Rule
from ddpm.data.validating.twins import Twins, find_twins
from ddpm.data.validating.unique_places import SharedTask, repeated, shared_places


@dataclass
class Counted:
    """Exact counters of a manifest."""

    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    """Number of rows by table."""
    breaking: Counter[str] = field(default_factory=Counter)
    """By rule of these tables: the number of rows that break it; for a row count, the count."""
    named: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By rule: the first NAMED_ROWS rows that break it, as texts."""
    classes: dict[str, Counter[str]] = field(default_factory=lambda: {"train": Counter(), "test": Counter()})
    """By split: images by class."""
    darkest: float = np.inf
    """The lowest mean of an image, in 0..255."""
    brightest: float = -np.inf
    """The highest mean of an image, in 0..255."""
    brightness: np.ndarray = field(default_factory=lambda: np.zeros(BRIGHTNESS_BARS, np.int64))
    """Images by mean, in BRIGHTNESS_BARS equal ranges of 0..255."""
    sides: Counter[float] = field(default_factory=Counter)
    """Images by the shorter side of the original, in pixels."""
    rejected: dict[str, list[str]] = field(default_factory=dict)
    """By reason: the first rejected files."""
    copies: dict[str, str] = field(default_factory=dict)
    """By the sha256 of a file: a kept file with these bytes."""
    twins: Twins = field(default_factory=lambda: Twins(0, []))
    """Images of test that are also in train."""


def count(
    prepared: Path,
    rules: Sequence[Rule],
    *,
    crew: Crew,
    scratch: Path,
    sha256: frozenset[str] = frozenset(),
    per_reason: int = NAMED_ROWS,
) -> Counted:
    """Count the manifest of the folder `prepared`. `scratch` is a folder that all workers of the crew see.

    `sha256` are digests of files whose kept copies are named; `per_reason` is the number of rejected files that are
    named for each reason. Raises UserError if the manifest is missing or damaged.
    """
    counted = Counted()
    countable = tuple(rule for rule in rules if rule.is_countable)
    parts = [part.resolve() for part in manifest.parts(prepared)]
    tasks = Pieces(len(parts), lambda k: CountTask(parts[k], countable, sha256, per_reason))
    places: dict[str | None, list[np.ndarray]] = {}
    for part in in_order(crew.run(count_part, tasks)):
        _add(counted, part, per_reason)
        for split, runs in part.places.items():
            places.setdefault(split, []).append(runs)
    counted.twins = find_twins(prepared, test=counted.rows["test"], crew=crew, scratch=scratch)
    for rule in rules:
        if rule.table not in COUNTED or rule.is_countable:
            continue
        counted.named[rule.name] = ()
        if rule.check == "row_count":
            counted.breaking[rule.name] = counted.rows[rule.table]
        elif rule.check == "unique_together":
            counted.breaking[rule.name], counted.named[rule.name] = _shared(rule, parts, places, crew)
        else:
            assert rule.columns == (SAME_AS_IN_TRAIN,), f"{rule.name!r} cannot be counted"
            counted.breaking[rule.name] = counted.twins.images
            counted.named[rule.name] = tuple(
                f"{path} ({SAME_AS_IN_TRAIN} {twin})" for path, twin in counted.twins.first
            )
    return counted


def _add(counted: Counted, part: PartCount, per_reason: int) -> None:
    for table, n in part.rows.items():
        counted.rows[table] += n
    counted.breaking.update(part.breaking)
    for name, texts in part.named.items():
        counted.named[name] = (*counted.named.get(name, ()), *texts)[:NAMED_ROWS]
    for split, classes in part.classes.items():
        counted.classes[split].update(classes)
    counted.darkest = min(counted.darkest, part.darkest)
    counted.brightest = max(counted.brightest, part.brightest)
    counted.brightness += part.brightness
    counted.sides.update(part.sides)
    for reason, paths in part.rejected.items():
        counted.rejected[reason] = (counted.rejected.get(reason, []) + paths)[:per_reason]
    counted.copies |= part.copies


def _shared(
    rule: Rule, parts: Sequence[Path], places: dict[str | None, list[np.ndarray]], crew: Crew
) -> tuple[int, tuple[str, ...]]:
    intervals = {split: found for split, runs in places.items() if len(found := repeated(runs))}
    if not intervals:
        return 0, ()
    tasks = Pieces(len(parts), lambda k: SharedTask(parts[k], rule, intervals))
    n = 0
    texts: tuple[str, ...] = ()
    for shared, some in in_order(crew.run(shared_places, tasks)):
        n, texts = n + shared, (*texts, *some)[:NAMED_ROWS]
    return n, texts
