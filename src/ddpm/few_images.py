"""The limits in params.yaml at which stages would stop for few images."""

import math
from typing import NamedTuple

from ddpm.params import Params

_LEAST = {"features.dim": 16}
"""The smallest allowed values of these settings, where they are above 1."""


class Limit(NamedTuple):
    """A setting whose value needs more images than there are."""

    key: str
    value: int
    most: int
    """The largest value that the images allow."""


def broken(params: Params, *, train: int, test: int) -> list[Limit]:
    """Return all settings at which stages would stop for so few training and held-out images."""
    fewest = min(train, test)
    limits = [
        Limit("validate.min_train_images", params.validate.min_train_images, train),
        Limit("validate.min_test_images", params.validate.min_test_images, test),
    ]
    for name, needed in params.evaluate.images_needed.items():
        value = getattr(params.evaluate, name)
        limits.append(Limit(f"evaluate.{name}", value, fewest - (needed - value)))
    if params.features.inception_weights is None:
        limits.append(Limit("features.dim", params.features.dim, fewest - 1))
    return [limit for limit in limits if limit.value > limit.most]


def warning(params: Params, *, train: int, test: int) -> str | None:
    """Return one sentence with all these settings; None if there are none."""
    above = [
        f"{key} is {value} (possible: at most {most})" for key, value, most in broken(params, train=train, test=test)
    ]
    if not above:
        return None
    if sentence := unreachable(params, train=train, test=test):
        return sentence
    return (
        f"there are only {train} training and {test} held-out images, and later stages would stop, because "
        f"{', '.join(above)}; have more images, or lower these by `ddpm configure --fit` and trust the metrics less"
    )


def unreachable(params: Params, *, train: int, test: int) -> str | None:
    """Return one sentence if no values of these settings are low enough; None if some are."""
    for key, _, most in broken(params, train=train, test=test):
        least = _LEAST.get(key, 1)
        if most < least:
            needed = min(train, test) + least - most
            share = math.ceil(100 * needed / (train + test)) / 100
            advice = f", or raise data.test_fraction to {share:g}" if test < train and share <= 0.5 else ""
            return (
                f"there are only {train} training and {test} held-out images, but {key} is at least {least}, so the "
                f"metrics need {needed} of both; have more images{advice}"
            )
    return None
