"""C_T is the paper's statistic, falls with the share of copies, and its interval covers what repetitions give."""

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

from ddpm.measuring import data_copying as measuring
from ddpm.measuring.data_copying import COPYING, data_copying, k_means, mann_whitney
from ddpm.measuring.measured import Measured


def drawn(n: int, seed: int, *, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, scale, (n, 4)))


TRAIN = drawn(600, 0)


def with_distances(points: Tensor) -> tuple[Tensor, np.ndarray]:
    return points, torch.cdist(points, TRAIN).amin(dim=1).numpy()


def measured(images: Tensor, held_out: Tensor) -> Measured:
    found = data_copying(with_distances(images), with_distances(held_out), TRAIN, seed=0)
    assert found is not None
    return found


def with_copies(share: float, n: int, seed: int) -> Tensor:
    copied = np.random.default_rng(seed).random(n) < share
    return torch.where(torch.from_numpy(copied)[:, None], TRAIN[:n], drawn(n, seed))


def test_the_z_score_is_that_of_scipy() -> None:
    random = np.random.default_rng(0)
    for n, m in ((30, 50), (200, 20), (5, 7)):
        a, b = random.normal(size=n), random.normal(0.3, 1, size=m)
        u = mannwhitneyu(a, b).statistic
        assert mann_whitney(a, b).z == pytest.approx((u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12))
    ties = mann_whitney(np.array([1.0, 2, 2, 3]), np.array([2.0, 2, 3, 3, 4]))
    u = mannwhitneyu([1, 2, 2, 3], [2, 2, 3, 3, 4]).statistic
    assert ties.z == pytest.approx((u - 10) / np.sqrt(20 * 10 / 12))


def test_it_is_the_mean_of_the_cells_weighted_by_held_out_images() -> None:
    images, held_out = with_copies(0.2, 500, 1), drawn(200, 2)
    (_, own), (_, real) = with_distances(images), with_distances(held_out)
    centres = k_means(TRAIN, 200 // measuring.HELD_OUT_PER_CELL, seed=0)
    cells, real_cells = (torch.cdist(part, centres).argmin(dim=1).numpy() for part in (images, held_out))
    scores, weights = [], []
    for cell in range(len(centres)):
        a, b = own[cells == cell], real[real_cells == cell]
        u = mannwhitneyu(a, b).statistic
        scores.append((u - len(a) * len(b) / 2) / np.sqrt(len(a) * len(b) * (len(a) + len(b) + 1) / 12))
        weights.append(len(b))
    assert len(scores) == 6
    assert measured(images, held_out).value == pytest.approx(np.average(scores, weights=weights))


def test_new_images_are_near_0_copies_are_below_the_threshold_and_worse_images_above_0() -> None:
    held_out = drawn(300, 1)
    found = [measured(with_copies(share, 600, 2), held_out) for share in (0.0, 0.1, 0.3, 0.6, 1.0)]
    values = [each.value for each in found]
    assert found[0].low < 0 < found[0].high
    assert values == sorted(values, reverse=True)
    assert found[-1].high < COPYING
    assert measured(drawn(600, 2, scale=1.5), held_out).low > 0


def test_images_that_are_all_a_little_too_near_are_noticed() -> None:
    """Few of them are copies by themselves: each is beside a training image, about as far as real images may be."""
    near = TRAIN + 0.2 * drawn(600, 3)
    found = measured(near, drawn(300, 1))
    limit = np.quantile(with_distances(drawn(300, 1))[1], 0.01)
    assert np.mean(with_distances(near)[1] <= limit) < 0.1
    assert found.value < COPYING


def test_a_cell_with_few_generated_images_does_not_count() -> None:
    held_out = drawn(120, 1)
    centres = k_means(TRAIN, 4, seed=0)
    images = drawn(600, 2)
    cells = torch.cdist(images, centres).argmin(dim=1)
    few = torch.cat([images[cells != 0], images[cells == 0][: measuring.FEWEST_IMAGES - 1]])
    found = measured(few, held_out)
    assert measured(images[cells != 0], held_out).value == pytest.approx(found.value, abs=1e-12)
    nothing = data_copying(with_distances(images[:19]), with_distances(held_out), TRAIN, seed=0)
    assert nothing is None


@pytest.mark.parametrize(("share", "n", "m"), [(0.0, 400, 150), (0.4, 400, 150)])
def test_the_interval_covers_the_mean_of_repetitions_in_93_to_97_of_100_cases(share: float, n: int, m: int) -> None:
    found = [measured(with_copies(share, n, 2 * k + 10), drawn(m, 2 * k + 11)) for k in range(300)]
    mean = np.mean([each.value for each in found])
    assert 0.93 <= np.mean([each.low <= mean <= each.high for each in found]) <= 0.97


def test_k_means_finds_separate_groups_and_repeats_itself() -> None:
    groups = torch.cat([drawn(50, k, scale=0.1) + 10 * k for k in range(5)])
    centres = k_means(groups, 5, seed=3)
    assert sorted(centres[:, 0].round().tolist()) == [0, 10, 20, 30, 40]
    assert torch.equal(centres, k_means(groups, 5, seed=3))
    assert len(k_means(torch.ones(30, 2), 5, seed=0)) == 1
