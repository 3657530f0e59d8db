"""Classes that a model has lost, and only those, are missing from the share of covered classes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.measuring.classes_covered import classes_covered, left_out


def logits(classes: np.ndarray, of: int = 10) -> Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(classes), of).float()


def drawn(n: int, shares: list[float], seed: int) -> Tensor:
    return logits(np.random.default_rng(seed).choice(len(shares), n, p=np.array(shares) / sum(shares)), len(shares))


@pytest.mark.parametrize("missing", [0, 1, 3, 9])
def test_each_class_that_is_missing_lowers_the_share(missing: int) -> None:
    found = classes_covered(drawn(1000, [0] * missing + [1] * (10 - missing), 0), drawn(360, [1] * 10, 1), seed=0)
    assert found.value == pytest.approx(1 - missing / 10)
    assert found.low <= found.value <= found.high
    assert found.by_image is None


def test_a_class_counts_from_half_of_its_share_and_classes_may_be_unequal() -> None:
    real = logits(np.repeat([0, 1], [900, 100]), 2)
    assert classes_covered(logits(np.repeat([0, 1], [950, 50]), 2), real, seed=0).value == 1.0
    assert classes_covered(logits(np.repeat([0, 1], [951, 49]), 2), real, seed=0).value == 0.5


def test_a_class_without_reference_images_does_not_count() -> None:
    real, made = logits(np.repeat([0, 1], 50), 3), logits(np.repeat([0, 1, 2], [25, 50, 25]), 3)
    assert classes_covered(made, real, seed=0).value == 1.0
    assert classes_covered(logits(np.full(100, 2), 3), real, seed=0).value == 0.0
    assert (left_out(real), left_out(made)) == (1, 0)


def test_the_interval_says_whether_chance_could_have_decided() -> None:
    real = drawn(2000, [1] * 10, 1)
    clear = classes_covered(drawn(2000, [1] * 10, 0), real, seed=0)
    assert (clear.low, clear.value, clear.high) == (1.0, 1.0, 1.0)
    near = classes_covered(drawn(2000, [0.5] + [1] * 9, 0), real, seed=0)
    assert (near.low, near.high) == (pytest.approx(0.9), 1.0)


def test_the_interval_covers_the_share_that_all_images_would_have() -> None:
    """The metric has steps of one class, so the interval covers at least as often as it should."""
    shares = [0.35, 0.7, *[1.0] * 8]
    found = [classes_covered(drawn(300, shares, k), drawn(300, [1] * 10, k + 1000), seed=0) for k in range(200)]
    assert np.mean([each.low <= 0.9 <= each.high for each in found]) >= 0.93
