"""Contests with fixed metrics, to test decisions without images."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ddpm.measuring.measured import Measured, Pair, from_influences
from ddpm.promotion.gate import MEMORIZED
from ddpm.promotion.settings import Promote, Rule

COPIES = tuple(Rule(figure=name, at_most=0.05) for name in MEMORIZED)
RULES = (Rule(figure="fid", better_by=0.1), Rule(figure="fid", floors_at_most=5.0), *COPIES)


def promote(*rules: Rule, **changes: Any) -> Promote:
    """The rules of the tests, or these."""
    values: dict[str, Any] = {
        "name": "ddpm",
        "rules": rules or RULES,
        "max_images": 1000,
        "approval": "auto",
        "approval_days": 14.0,
        "auto_rollback": False,
    }
    return Promote(**values | changes)


def noisy(value: float, error: float, *, n: int = 100, seed: int = 0) -> Measured:
    """A metric of n images with this standard error, by influences of independent images."""
    drawn = np.random.default_rng(seed).standard_normal(n)
    scaled = (drawn - drawn.mean()) / drawn.std(ddof=1) * error * np.sqrt(n)
    return from_influences(value, scaled, None)


def known(value: float | None, *, seed: int = 0) -> Measured | None:
    """A metric that is known almost exactly; those of two seeds are of different images."""
    return None if value is None else noisy(value, 1e-9, seed=seed)


@dataclass
class FixedContest:
    """The metrics of two records, known almost exactly, or the given pairs, which may depend on the number of images.

    Equal metrics are those of equal images.
    """

    candidate: Mapping[str, Any] = field(default_factory=dict)
    champion: Mapping[str, Any] | None = None
    fixed: Mapping[str, Iterable[Pair]] = field(default_factory=dict)
    """By metric: the pair of each look."""
    images: int = 100
    remarks: tuple[str, ...] = ()
    measured_again: bool = False

    def __post_init__(self) -> None:
        self.looks = [self.images]
        self._fixed = {name: list(pairs) for name, pairs in self.fixed.items()}

    def pairs(self, figures: Collection[str]) -> dict[str, Pair]:
        other = self.champion or {}
        return {
            name: self._fixed[name][len(self.looks) - 1]
            if name in self._fixed
            else self._known(self.candidate.get(name), other.get(name))
            for name in figures
        }

    @staticmethod
    def _known(candidate: float | None, champion: float | None) -> Pair:
        return Pair(known(candidate), known(champion, seed=int(candidate != champion)))

    def draw_more(self, images: int) -> None:
        self.images = images
        self.looks.append(images)

    def champion_record(self) -> Mapping[str, Any]:
        assert self.champion is not None
        self.measured_again = True
        return self.champion
