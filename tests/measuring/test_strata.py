"""Classes as strata: a class of one image makes no interval narrower."""

import numpy as np
import pytest

from ddpm.measuring.strata import centred, collapsed


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 1, 2, 3], [0, 0, 0, 0]),
        ([0, 0, 1, 2, 2, 3], [0, 0, 1, 2, 2, 1]),
        ([0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 1]),
        ([0, 0, 1, 1], [0, 0, 1, 1]),
        ([5], [5]),
    ],
)
def test_classes_of_one_image_become_one_class(labels: list[int], expected: list[int]) -> None:
    assert list(collapsed(np.array(labels))) == expected


def test_images_of_as_many_classes_have_the_variance_of_images_without_classes() -> None:
    """Else a thousand images of a thousand classes would have intervals without width, and any difference would win."""
    values = np.random.default_rng(0).normal(size=100)
    assert np.mean(centred(values, collapsed(np.arange(100))) ** 2) == pytest.approx(values.var())
