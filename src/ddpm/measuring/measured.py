"""A measured metric with what chance does to it: the interval, and how each image moves the value."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
"""Probability with which an interval covers the value that infinitely many repetitions would give on average."""
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""Half the width of an interval, in standard errors."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Influence of pairs of images on a metric beyond the influences of both (the second-order Hoeffding terms).

    A metric that compares two sets has them. Where the two sets are alike they are most of its variance, and the
    variance of influences that are estimated from the same images counts them twice.
    """

    within_images: np.ndarray
    """float64 [P]: for some pairs of the images drawn; and for pairs of reference images, and of one of each."""
    within_reference: np.ndarray
    between: np.ndarray
    in_influences: tuple[float, float, float]
    """What the variance of the influences has of the mean square of each of the three."""
    in_value: tuple[float, float, float]
    """What the variance of the value has of it."""

    def times(self, factor: float) -> "Pairs":
        """Return the pairs of a metric whose values are this many times as large."""
        return Pairs(
            self.within_images * factor,
            self.within_reference * factor,
            self.between * factor,
            self.in_influences,
            self.in_value,
        )


@dataclass(frozen=True, eq=False)
class Measured:
    """The value of a metric for one set of N images against M reference images."""

    value: float
    low: float
    """Lower end of the interval of CONFIDENCE, for other images drawn and other reference images."""
    high: float
    by_image: np.ndarray | None = None
    """float64 [N]: influence of each image on the value. Their mean is about 0, and their variance divided by N is the
    part of the value's variance that the images drawn cause. None: the metric has no such influences."""
    by_reference: np.ndarray | None = None
    """float64 [M]: the same of each reference image; None if the metric uses no reference or has no such influences."""
    pairs: Pairs | None = None
    """None if the influences say all."""

    def times(self, factor: float) -> "Measured":
        """Return the metric whose values are this many times as large."""
        low, high = sorted((self.low * factor, self.high * factor))
        images, references = (None if each is None else each * factor for each in (self.by_image, self.by_reference))
        pairs = None if self.pairs is None else self.pairs.times(factor)
        return Measured(self.value * factor, low, high, images, references, pairs)


@dataclass(frozen=True)
class Pair:
    """A metric of a candidate and of the champion, against the same reference images; None if a model has it not."""

    candidate: Measured | None
    champion: Measured | None
    paired: bool = True
    """Image k of both has the same seed and label."""


@dataclass(frozen=True)
class Difference:
    """The value of a metric for one set of images less that for another set, against the same reference images."""

    value: float
    standard_error: float


def share_interval(hits: float, misses: float) -> tuple[float, float]:
    """Return the interval of Clopper and Pearson (1934) for a share, which covers whatever the number of draws is."""
    from scipy.stats import beta

    tail = (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, hits, misses + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, misses)) if misses else 1.0
    return low, high


def difference(a: Measured, b: Measured, *, paired: bool) -> Difference | None:
    """Return a - b with its standard error; None if they have no influences of the same kind.

    `paired`: image k of both sets has the same seed and label, so what their influences share cancels. The reference
    images are always the same ones. Without pairs the sets are independent and may have different sizes.
    The difference plus and minus Z standard errors covers the true difference in 93 to 97 of 100 cases for two models
    that differ, and more often for models that equal the reference (FID and KID of known Gaussians).
    """
    parts: list[np.ndarray] = []
    if a.by_image is not None and b.by_image is not None:
        parts += [a.by_image - b.by_image] if paired else [a.by_image, b.by_image]
    if a.by_reference is not None and b.by_reference is not None:
        parts.append(a.by_reference - b.by_reference)
    if not parts:
        return None
    variance = sum(variance_of_mean(each) for each in parts)
    if a.pairs is not None and b.pairs is not None:
        variance = _counted_once(variance, _differences(a.pairs, b.pairs, paired=paired))
    return Difference(a.value - b.value, float(np.sqrt(variance)))


def variance_of(by_image: np.ndarray | None, by_reference: np.ndarray | None, pairs: Pairs | None = None) -> float:
    """Return the variance of a value with these influences."""
    variance = sum(variance_of_mean(part) for part in (by_image, by_reference) if part is not None)
    return _counted_once(variance, [pairs]) if pairs is not None else variance


def interval_of_squares(value: float, error: float) -> tuple[float, float]:
    """Return the interval of a sum of squares with this standard error, both ends at least 0.

    It is symmetric on the scale of the cube root, on which such a sum is nearly normal (Wilson and Hilferty 1931).
    """
    if value <= error:
        return max(0.0, value - Z * error), max(0.0, value + Z * error)
    root = np.cbrt(value)
    reach = Z * error / (3 * root**2)
    return float(max(0.0, root - reach) ** 3), float((root + reach) ** 3)


def from_influences(value: float, by_image: np.ndarray | None, by_reference: np.ndarray | None) -> Measured:
    """Return the value with the interval that follows from its influences by the normal distribution."""
    reach = Z * float(np.sqrt(variance_of(by_image, by_reference)))
    return Measured(value, value - reach, value + reach, by_image, by_reference)


def variance_of_mean(values: np.ndarray) -> float:
    """Return the variance of the mean of independent values, whose own mean is 0."""
    return float(np.mean(np.square(values))) / max(1, len(values) - 1)


def _counted_once(variance: float, each: list[Pairs]) -> float:
    """Return the variance without what pairs of images add to the influences, and with what they add to the value."""
    squares = [[float(np.mean(np.square(v))) for v in (p.within_images, p.within_reference, p.between)] for p in each]
    of_influences, of_value = (
        sum(float(np.dot(weights, square)) for weights, square in zip(kind, squares, strict=True))
        for kind in ([p.in_influences for p in each], [p.in_value for p in each])
    )
    return max(0.0, variance - of_influences) + of_value


def _differences(a: Pairs, b: Pairs, *, paired: bool) -> list[Pairs]:
    """Return pairs whose mean squares are those of the difference of two metrics."""
    reference = a.within_reference - b.within_reference
    none = np.zeros(1)
    if paired:
        images, between = a.within_images - b.within_images, a.between - b.between
        return [Pairs(images, reference, between, a.in_influences, a.in_value)]
    return [
        Pairs(a.within_images, reference, a.between, a.in_influences, a.in_value),
        Pairs(b.within_images, none, b.between, b.in_influences, b.in_value),
    ]
