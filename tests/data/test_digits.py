"""The digits are read without importing scikit-learn and equal those that it returns."""

import numpy as np

from ddpm.data.preparing.sources import _read_digits


def test_the_digits_are_those_that_scikit_learn_gives() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = _read_digits()
    assert np.array_equal(pixels, load_digits().images)
    assert labels == load_digits().target.tolist()
