"""Which metrics must notice which damages, and why: a metric that does not is unfit to judge models of these data."""

from dataclasses import dataclass
from typing import Literal

from ddpm.measuring.metric_catalogue import Metric

Direction = Literal["rise", "fall"]

EVERYTHING = ("blur", "noise", "halves", "missing_classes", "repetition")
"""All damages but copies, which are real images."""

_DISTANCE = "Of two distributions: images that are wrong, and kinds of images that are missing, must raise it."
_SINGLE = "It asks whether each image looks real, so images that do not must lower it."
_VARIETY = "It asks how much of the real images is there, so what is missing must lower it."
_COPY = "It searches for training images among the generated ones."

EXPECTED: dict[str, tuple[tuple[str, ...], str]] = {
    "fid": (EVERYTHING, _DISTANCE),
    "fid_infinity": (EVERYTHING, _DISTANCE),
    "fid_second": (EVERYTHING, _DISTANCE),
    "kid": (EVERYTHING, _DISTANCE),
    "kid_second": (EVERYTHING, _DISTANCE),
    "inception_score": (
        ("missing_classes",),
        "It asks how evenly the images cover the classes. Damaged images may still look like one class clearly.",
    ),
    "precision": (("noise", "halves"), f"{_SINGLE} Blurred images can lie between real ones."),
    "density": (("noise", "halves"), f"{_SINGLE} Blurred images can lie between real ones."),
    "recall": (("repetition",), f"{_VARIETY} Real images of a missing class may lie between those of other classes."),
    "coverage": (("missing_classes", "repetition"), _VARIETY),
    "classes_covered": (("missing_classes",), "It counts the classes that are there."),
    "sharpness": (("blur",), "It compares fine detail with that of real images; blur removes it."),
    "data_copying": (("copies",), _COPY),
    "memorized_share": (("copies",), _COPY),
    "memorized_share_features": (("copies",), _COPY),
    "memorized_share_shifted": (("copies",), _COPY),
    "memorized_share_mirrored": (("copies",), _COPY),
    "memorized_share_half": (("copies",), _COPY),
}
"""By metric: the damages that it must notice, and the reason. Without a row, one damage of any kind is enough."""

FALLS = ("sharpness", "data_copying")
"""Metrics for which neither direction is better, and which must fall."""


@dataclass(frozen=True)
class Expectation:
    """What a metric must do under the damages."""

    damages: tuple[str, ...]
    direction: Direction
    why: str
    any_of: bool = False
    """Noticing one of the damages is enough."""


def expectation_of(metric: Metric) -> Expectation | None:
    """Return what this metric must do; None for a metric without a better direction, of which nothing is known."""
    direction: Direction = "rise" if metric.better == "lower" else "fall"
    if metric.better is None and metric.name not in FALLS:
        return None
    if metric.name in EXPECTED:
        damages, why = EXPECTED[metric.name]
        return Expectation(damages, direction, why)
    everything = (*EVERYTHING, "copies")
    return Expectation(everything, direction, "A metric that notices no damage judges nothing.", any_of=True)
