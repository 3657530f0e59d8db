"""The share of the classes that generated images cover: a model that has lost modes misses some."""

import numpy as np
from torch import Tensor

from ddpm.measuring.measured import CONFIDENCE, Measured

COVERED_SHARE = 0.5
"""A class is covered if its share of the generated images is at least this, relative to its share of the reference
images. Chance makes a class of 15 generated images miss it once in 30 times if it is drawn as often as it should be."""
RESAMPLES = 2000


def classes_covered(logits: Tensor, reference: Tensor, *, seed: int) -> Measured:
    """Return the share of the classes that images with logits [N,K] cover, by reference images' logits [M,K].

    An image has the class with the largest logit, for both sets, so errors of the classifier that both have do not
    count. Classes without a reference image are left out (`left_out`). The interval is that of `RESAMPLES` numbers of
    images per class drawn again for both sets (bootstrap percentiles, by `seed`); it has no influences, because the
    metric is a step function.
    """
    counts, real = (_counts(part) for part in (logits, reference))
    exists = real > 0
    counts, real = np.append(counts[exists], counts[~exists].sum()), np.append(real[exists], 0)
    random = np.random.default_rng(seed)
    again = [random.multinomial(each.sum(), each / each.sum(), RESAMPLES) for each in (counts, real)]
    tail = (1 - CONFIDENCE) / 2
    value = float(_covered(counts[None], real[None])[0])
    low, high = np.quantile(_covered(*again), (tail, 1 - tail))
    return Measured(value, min(value, float(low)), max(value, float(high)))


def left_out(reference: Tensor) -> int:
    """Return the number of classes that no reference image has by its logits [M,K].

    It is unknown how many of the generated images should have one of them.
    """
    return int((_counts(reference) == 0).sum())


def _counts(logits: Tensor) -> np.ndarray:
    return np.bincount(logits.argmax(dim=1).numpy(), minlength=logits.shape[1])


def _covered(counts: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return the share of the first K classes that are covered in each of R sets [R,K+1]: float64 [R]."""
    shares, real_shares = (each / each.sum(axis=1, keepdims=True) for each in (counts, real))
    return (shares >= COVERED_SHARE * real_shares)[:, :-1].mean(axis=1)
