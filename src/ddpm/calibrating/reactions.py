"""How every metric reacts to damages of real images, and which metrics do not react as they must.

Training images stand for the generated ones and are compared with held-out images, as for the floor of an evaluation:
without damage FID is the floor, and with damage it compares with the FID of as many generated images. Copies are put
among held-out images instead, because among training images everything is a copy: one half of the held-out images
stands for the generated ones, the other half is the reference.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ddpm.calibrating.damages import Damage, copies, damages
from ddpm.calibrating.expectations import Direction, expectation_of
from ddpm.images import Images
from ddpm.measuring import feature_metrics
from ddpm.measuring.comparable import require_comparable
from ddpm.measuring.data_copying import data_copying
from ddpm.measuring.features.extractor import Described, FeatureExtractor, describe
from ddpm.measuring.features.subset import draw_rows
from ddpm.measuring.measured import Measured
from ddpm.measuring.memorization import find_copies_in_every_way
from ddpm.measuring.memorized_share import memorized
from ddpm.measuring.metric_catalogue import JUDGED
from ddpm.measuring.settings import Evaluate
from ddpm.measuring.spectrum import sharpness, upper_powers
from ddpm.seeding import seed_of

MOST_IMAGES = 2000
"""Images of a set, at most, so that a large data set takes no longer; twice the features of a large extractor."""


_SEED = 0
"""Seed of random subsets in the metrics."""
_KID_SUBSETS = 10
"""Largest number of random subsets for KID: more would take most of the time and make only its noise smaller."""


@dataclass(frozen=True, eq=False)
class Shown:
    """What a person looks at of a damage."""

    name: str
    title: str
    captions: tuple[str, ...]
    """By step."""
    images: tuple[np.ndarray, ...]
    """uint8 [k,C,H,W] by step."""
    hit: tuple[np.ndarray, ...]
    """bool [k] by step: those that the damage has changed or replaced, where it does so with a part of all images."""

    @staticmethod
    def of(damage: Damage) -> "Shown":
        return Shown(
            damage.name,
            damage.title,
            tuple(step.caption for step in damage.steps),
            tuple(damage.images[step.rows[damage.shown]] for step in damage.steps),
            tuple(step.hit[damage.shown] & ~step.hit.all() for step in damage.steps),
        )


@dataclass(frozen=True)
class Reaction:
    """What a metric did under one damage."""

    metric: str
    damage: str
    measured: tuple[Measured, ...]
    """By step; the first is without damage."""
    expected: Direction | None
    """What the metric must do; None: anything."""
    fault: str = ""
    """What it did instead; empty if it did as expected."""


@dataclass(frozen=True)
class Reactions:
    """The reactions of all metrics to all damages."""

    damages: tuple[Shown, ...]
    reactions: tuple[Reaction, ...]
    unfit: dict[str, str]
    """Why a metric is unfit to judge models of these data, by its name."""
    n: int
    """Images of a set, but for copies."""
    reference_n: int
    copies_n: int
    """Held-out images with copies among them; about as many are their reference."""
    extractor: dict[str, Any]
    """As in the protocol of a record."""

    def of(self, metric: str, damage: str) -> tuple[Measured, ...]:
        """Return the metric at every step of the damage; empty if it was not measured."""
        return next((each.measured for each in self.reactions if (each.metric, each.damage) == (metric, damage)), ())

    def to_json(self) -> dict[str, Any]:
        """Return the content of reports/reactions.json. DVC shows its numbers as metrics, but nothing within lists."""
        return {
            "unfit_metrics": len(self.unfit),
            "unfit": sorted(self.unfit),
            "reasons": [{"figure": name, "why": why} for name, why in sorted(self.unfit.items())],
            "protocol": {
                "n": self.n,
                "reference_n": self.reference_n,
                "copies_n": self.copies_n,
                "extractor": self.extractor,
            },
            "damages": [
                {"name": damage.name, "title": damage.title, "steps": damage.captions} for damage in self.damages
            ],
            "reactions": [
                {
                    "figure": each.metric,
                    "damage": each.damage,
                    "expected": each.expected,
                    "fault": each.fault,
                    "values": [measured.value for measured in each.measured],
                    "low": [measured.low for measured in each.measured],
                    "high": [measured.high for measured in each.measured],
                }
                for each in self.reactions
            ],
        }


def react(
    train: Images,
    labels: np.ndarray | None,
    test: Images,
    *,
    extractor: FeatureExtractor,
    settings: Evaluate,
    device: torch.device,
    progress: bool,
) -> Reactions:
    """Measure every damage of training images, uint8 [N,C,H,W] with labels int64 [N], and of held-out ones (test).

    Raises UserError for a set with too few images.
    """
    require_comparable(train, train, test, dim=extractor.dim, settings=settings)
    most = max(MOST_IMAGES, 2 * extractor.dim)
    rows = np.sort(draw_rows(min(most, len(train)), len(train), seed=seed_of("calibrate", "train")))
    chosen = np.sort(
        draw_rows(min(most, settings.held_out_images, len(test)), len(test), seed=seed_of("calibrate", "test"))
    )
    measuring = _Measuring(train[rows], test[chosen], extractor, settings, device, progress)
    found: list[tuple[Shown, list[dict[str, Measured]]]] = []
    for damage in damages(measuring.train, None if labels is None else labels[rows]):
        found.append((Shown.of(damage), measuring.quality(damage)))
    damage = copies(measuring.held_out, measuring.train)
    found.append((Shown.of(damage), measuring.copies(damage)))
    reactions = tuple(_reactions({shown.name: steps for shown, steps in found}))
    return Reactions(
        damages=tuple(shown for shown, _ in found),
        reactions=reactions,
        unfit=unfit(reactions),
        n=len(rows),
        reference_n=len(chosen),
        copies_n=len(measuring.held_out),
        extractor=extractor.description.to_json(),
    )


class _Measuring:
    """Measures sets of images against the same reference; what is equal in all sets is computed once."""

    def __init__(
        self,
        train: np.ndarray,
        test: np.ndarray,
        extractor: FeatureExtractor,
        settings: Evaluate,
        device: torch.device,
        progress: bool,
    ) -> None:
        self._extractor, self._device, self._progress = extractor, device, progress
        self._settings = replace(settings, kid_subsets=min(settings.kid_subsets, _KID_SUBSETS))
        self.train, self.held_out = train, test[0::2]
        self._train, self._test = self._described(train), self._described(test)
        self._powers = upper_powers(train), upper_powers(test)
        self._without = self._quality(self._train, self._powers[0], rough=False)
        self._other_half = test[1::2], self._test[1::2]

    def quality(self, damage: Damage) -> list[dict[str, Measured]]:
        """Return the metrics of the quality of the damaged training images by step."""
        described, powers, more = self._train, self._powers[0], damage.images[len(self.train) :]
        if len(more):
            described = _joined(described, self._described(more))
            powers = np.concatenate([powers, upper_powers(more)])
        rows = [step.rows for step in damage.steps]
        measured = [
            self._quality(described[torch.from_numpy(own)], powers[own], rough=own is not rows[-1]) for own in rows[1:]
        ]
        return [self._without, *measured]

    def copies(self, damage: Damage) -> list[dict[str, Measured]]:
        """Return the metrics of copies in the damaged held-out images by step; the other half are the held-out ones."""
        described = self._described(damage.images)
        return [self._copies(damage.images[step.rows], described[torch.from_numpy(step.rows)]) for step in damage.steps]

    def _quality(self, images: Described, powers: np.ndarray, *, rough: bool) -> dict[str, Measured]:
        values = feature_metrics.measured(
            images,
            self._test,
            settings=self._settings,
            names_classes=self._extractor.names_classes,
            seed=_SEED,
            rough=rough,
        )
        values["sharpness"] = sharpness(powers, self._powers[1])
        return {name: value for name, value in values.items() if value is not None}

    def _copies(self, images: np.ndarray, described: Described) -> dict[str, Measured]:
        half, reference = self._other_half
        found = find_copies_in_every_way(
            (images, half, self.train),
            (described.features.numpy(), reference.features.numpy()),
            lambda start, piece: self._train.features[start : start + len(piece)].numpy(),
            quantile=self._settings.memorized_quantile,
            device=self._device,
            progress=False,
        )
        copying = data_copying(
            (described.features, found.features.nearest.distance),
            (reference.features, found.features.held_out.distance),
            self._train.features,
            seed=_SEED,
        )
        return memorized(found) | ({} if copying is None else {"data_copying": copying})

    def _described(self, images: np.ndarray) -> Described:
        return describe(self._extractor, images, device=self._device, progress=self._progress, what="damaged")


def _joined(*parts: Described) -> Described:
    return Described(torch.cat([part.features for part in parts]), torch.cat([part.logits for part in parts]))


def _reactions(measured: Mapping[str, list[dict[str, Measured]]]) -> Iterator[Reaction]:
    for metric in JUDGED:
        expectation = expectation_of(metric)
        for damage, steps in measured.items():
            values = tuple(step[metric.name] for step in steps if metric.name in step)
            if len(values) != len(steps):
                continue
            required = expectation is not None and damage in expectation.damages
            direction = expectation.direction if expectation is not None and required else None
            yield Reaction(metric.name, damage, values, direction, fault_of(values, direction) if direction else "")


def fault_of(measured: tuple[Measured, ...], direction: Direction) -> str:
    """Return what is wrong with the reaction of a metric that must rise or fall; empty if nothing is.

    From no damage to the worst the intervals must not overlap, and no step may lead back by more than its intervals.
    """
    first, last = measured[0], measured[-1]
    if not _beyond(first, last, direction):
        ends = f"from no damage ({first.value:.3g}) to the worst ({last.value:.3g})"
        return f"does not {direction} beyond its intervals {ends}"
    back: Direction = "fall" if direction == "rise" else "rise"
    for k, worse in enumerate(measured):
        for before in measured[:k]:
            if _beyond(before, worse, back):
                return f"{back}s from {before.value:.3g} to {worse.value:.3g} while the damage grows"
    return ""


def unfit(reactions: tuple[Reaction, ...]) -> dict[str, str]:
    """Return the metrics that did not react as they must, each with a sentence."""
    found: dict[str, str] = {}
    for metric in JUDGED:
        own = [each for each in reactions if each.metric == metric.name and each.expected]
        expectation = expectation_of(metric)
        faults = [each for each in own if each.fault]
        if expectation is None or not faults or (expectation.any_of and len(faults) < len(own)):
            continue
        listed = "; ".join(f"{each.damage}: it {each.fault}" for each in faults)
        found[metric.name] = f"{metric.label} does not react as it must. {listed}. {expectation.why}"
    return found


def _beyond(a: Measured, b: Measured, direction: Direction) -> bool:
    """Return whether b is beyond a in this direction, and so by more than both intervals."""
    return b.low > a.high if direction == "rise" else b.high < a.low
