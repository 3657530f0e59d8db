"""Density and coverage are those of their definition, and their intervals cover what repetitions give on average."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.measuring import density_coverage as measuring
from ddpm.measuring.density_coverage import expected_coverage
from ddpm.measuring.features.extractor import Described
from ddpm.measuring.measured import Measured, difference


def drawn(n: int, dim: int, seed: int, *, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(mean, scale, (n, dim))).float()


def density_and_coverage(images: Tensor, reference: Tensor, *, neighbours: int, seed: int) -> tuple[Measured, Measured]:
    described = (Described(each, torch.zeros(len(each), 2)) for each in (images, reference))
    return measuring.density_and_coverage(*described, neighbours=neighbours, seed=seed)


def inside(images: Tensor, reference: Tensor, k: int) -> Tensor:
    """Return whether each image is in the ball of each reference image: bool [M,N]."""
    apart = torch.cdist(reference.double(), reference.double(), compute_mode="donot_use_mm_for_euclid_dist")
    radius = apart.sort(dim=1).values[:, k]  # the first one is the image itself
    exact = torch.cdist(reference.double(), images.double(), compute_mode="donot_use_mm_for_euclid_dist")
    return exact <= radius[:, None]


def by_definition(images: Tensor, reference: Tensor, k: int) -> tuple[float, float]:
    found = inside(images, reference, k)
    return float(found.sum() / (k * len(images))), float(found.any(dim=1).double().mean())


@pytest.mark.parametrize(("n", "m", "k", "rows"), [(40, 25, 3, 7), (25, 40, 5, 1024), (30, 9, 8, 4)])
def test_values_are_those_of_all_pairs_compared_one_by_one(n, m, k, rows, monkeypatch) -> None:
    monkeypatch.setattr(measuring, "_CHUNK_ROWS", rows)
    images, reference = drawn(n, 4, 0, mean=0.4, scale=0.7), drawn(m, 4, 1) + 50.0
    images = images + 50.0
    density, coverage = density_and_coverage(images, reference, neighbours=k, seed=0)
    expected = by_definition(images, reference, k)
    assert (density.value, coverage.value) == pytest.approx(expected, abs=1e-6)


def test_influences_of_the_reference_are_those_of_leaving_one_image_out() -> None:
    """They are scaled, so they are proportional."""
    images, reference = drawn(60, 3, 0, mean=0.3), drawn(40, 3, 1)
    found = density_and_coverage(images, reference, neighbours=3, seed=0)
    for which in (0, 1):
        without = [
            by_definition(images, torch.cat([reference[:k], reference[k + 1 :]]), 3)[which]
            for k in range(len(reference))
        ]
        assert np.corrcoef(found[which].by_reference, without)[0, 1] == pytest.approx(-1, abs=1e-6)
    leaving_images = [by_definition(torch.cat([images[:k], images[k + 1 :]]), reference, 3)[1] for k in range(60)]
    assert np.corrcoef(found[1].by_image, leaving_images)[0, 1] == pytest.approx(-1, abs=1e-6)


def test_images_of_the_same_distribution_have_a_density_of_1_and_the_expected_coverage() -> None:
    """The mean over 20 sets; for as many images as reference images the expected coverage is about 1 - 2^-k."""
    found = [
        density_and_coverage(drawn(200, 2, 2 * k), drawn(200, 2, 2 * k + 1), neighbours=3, seed=0) for k in range(20)
    ]
    densities, coverages = ([each.value for each in part] for part in zip(*found, strict=True))
    expected = expected_coverage(200, 200, 3)
    assert expected == pytest.approx(1 - 2**-3, abs=0.01)
    assert np.mean(densities) == pytest.approx(1.0, abs=3 * np.std(densities) / np.sqrt(20))
    assert np.mean(coverages) == pytest.approx(expected, abs=3 * np.std(coverages) / np.sqrt(20))


def test_an_outlier_among_the_reference_images_moves_precision_and_hardly_density() -> None:
    """Images far away that are all in the ball of one outlier (Naeem et al. 2020, figure 2)."""
    reference, images = drawn(200, 8, 0), drawn(200, 8, 1, mean=3.0)
    outlier = torch.cat([reference[:-1], torch.full((1, 8), 6.0)])
    density, _ = density_and_coverage(images, outlier, neighbours=3, seed=0)
    precision = inside(images, outlier, 3).any(dim=0).double().mean()
    assert precision > 0.9
    assert density.value < 0.5


def test_a_lost_mode_lowers_coverage_and_copies_of_one_image_leave_almost_none() -> None:
    reference = torch.cat([drawn(150, 2, 0), drawn(150, 2, 1, mean=20.0)])
    both = torch.cat([drawn(150, 2, 2), drawn(150, 2, 3, mean=20.0)])
    _, whole = density_and_coverage(both, reference, neighbours=3, seed=0)
    _, half = density_and_coverage(drawn(300, 2, 4), reference, neighbours=3, seed=0)
    _, one = density_and_coverage(reference[:1].expand(300, 2), reference, neighbours=3, seed=0)
    assert whole.low > half.high
    assert half.value == pytest.approx(whole.value / 2, abs=0.08)
    assert one.value < 0.05


def test_images_that_are_the_reference_images_are_in_their_balls_whatever_rounding_does() -> None:
    reference = drawn(300, 64, 0) * 100 + 1000
    density, coverage = density_and_coverage(reference, reference, neighbours=3, seed=0)
    assert (density.value, coverage.value) == (pytest.approx(4 / 3), 1.0)
    assert coverage.low < 1.0 == coverage.high


def test_intervals_cover_the_mean_of_repetitions_in_about_95_of_100_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A jackknife alone covers it always. Intervals of coverage are a little too wide, as of any share."""
    monkeypatch.setattr(measuring, "SPLITS", 60)
    pairs = [(drawn(120, 4, 2 * k, mean=0.6), drawn(100, 4, 2 * k + 1)) for k in range(200)]
    found = [density_and_coverage(*pair, neighbours=3, seed=k) for k, pair in enumerate(pairs)]
    for each in zip(*found, strict=True):
        mean = np.mean([one.value for one in each])
        assert 0.93 <= np.mean([one.low <= mean <= one.high for one in each]) <= 0.98


def test_influences_say_how_large_a_difference_by_chance_is() -> None:
    """The difference of two sets against the same reference has the standard deviation that it states."""
    reference = drawn(200, 3, 999)
    sets = [density_and_coverage(drawn(200, 3, k), reference, neighbours=3, seed=0)[0] for k in range(30)]
    found = [difference(a, b, paired=False) for a, b in zip(sets[::2], sets[1::2], strict=True)]
    stated = np.mean([each.standard_error for each in found if each is not None])
    measured = np.std([each.value for each in sets], ddof=1) * np.sqrt(2)
    assert 0.6 < measured / stated < 1.6


def test_images_in_equal_numbers_of_each_class_have_a_smaller_interval() -> None:
    """Half of the images are outside of all neighbourhoods: that number is random, unless it is that of a class."""
    labels = torch.arange(200) % 2
    images = drawn(200, 3, 0) + 50.0 * labels[:, None]
    reference = Described(drawn(150, 3, 1), torch.zeros(150, 2))
    of_chance, of_classes = (
        measuring.density_and_coverage(Described(images, images, known), reference, neighbours=3, seed=0)[0]
        for known in (None, labels)
    )
    assert of_chance.value == of_classes.value
    assert of_classes.high - of_classes.low < 0.9 * (of_chance.high - of_chance.low)
