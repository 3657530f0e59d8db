"""Intervals of sets drawn again and again from known Gaussians contain the truth about as often as they say."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm.measuring.features.extractor import Described
from ddpm.measuring.frechet import fid_and_fid_infinity
from ddpm.measuring.inception_score import inception_score
from ddpm.measuring.kernel_distance import kid
from ddpm.measuring.manifold import precision_and_recall
from ddpm.measuring.measured import Measured, difference
from ddpm.measuring.memorized_share import share
from ddpm.params import load as load_params

SETTINGS = dataclasses.replace(load_params(Path(__file__).parents[2] / "params.yaml").evaluate, kid_subset_size=50)


def described(features: np.ndarray, labels: np.ndarray | None = None) -> Described:
    rows = torch.from_numpy(features).float()
    return Described(rows, rows).of_classes(labels)


def two_gaussians(d: int, difference: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Factors [D,D] of two covariances, and the difference [D] of the means."""
    random = np.random.default_rng(1)
    one = random.normal(size=(d, d)) / np.sqrt(d) + 0.3 * np.eye(d)
    return one, one + difference * random.normal(size=(d, d)) / np.sqrt(d), np.full(d, difference / np.sqrt(d))


def frechet(s1: np.ndarray, s2: np.ndarray, mean: np.ndarray) -> float:
    roots = np.sqrt(np.clip(np.linalg.eigvals(s1 @ s2).real, 0, None))
    return float(mean @ mean + np.trace(s1) + np.trace(s2) - 2 * roots.sum())


def drawn(repetitions: int, *, d: int, n: int, m: int, apart: float) -> Iterator[tuple[Described, Described]]:
    one, other, mean = two_gaussians(d, apart)
    random = np.random.default_rng(2)
    for _ in range(repetitions):
        yield described(random.normal(size=(n, d)) @ one.T + mean), described(random.normal(size=(m, d)) @ other.T)


def covered(found: list[Measured], truth: float) -> float:
    return float(np.mean([each.low <= truth <= each.high for each in found]))


def mean_of(found: list[Measured]) -> float:
    return float(np.mean([each.value for each in found]))


@pytest.mark.parametrize(
    ("d", "n", "m", "apart"), [(8, 300, 200, 0.6), pytest.param(12, 500, 300, 0.3, marks=pytest.mark.slow)]
)
def test_the_intervals_of_fid_cover_its_mean_and_those_at_infinity_the_true_distance(d, n, m, apart) -> None:
    one, other, mean = two_gaussians(d, apart)
    truth = frechet(one @ one.T, other @ other.T, mean)
    pairs = [fid_and_fid_infinity(a, b) for a, b in drawn(600, d=d, n=n, m=m, apart=apart)]
    fids, infinities = ([pair[k] for pair in pairs] for k in (0, 1))
    assert 0.93 <= covered(fids, mean_of(fids)) <= 0.97
    assert 0.93 <= covered(infinities, truth) <= 0.97
    assert covered(fids, truth) < 0.93, "FID itself has a bias"
    assert abs(mean_of(infinities) - truth) < 0.1 * (mean_of(fids) - truth)


def test_of_equal_distributions_the_intervals_cover_at_least_as_often() -> None:
    pairs = [fid_and_fid_infinity(a, b) for a, b in drawn(200, d=8, n=300, m=200, apart=0.0)]
    fids, infinities = ([pair[k] for pair in pairs] for k in (0, 1))
    assert covered(fids, mean_of(fids)) > 0.93
    assert covered(infinities, 0.0) > 0.93


@pytest.mark.slow
def test_the_intervals_of_kid_cover_the_mean_of_many() -> None:
    """The cubic kernel makes KID of few images skewed, so its intervals cover a little less often."""
    found = [kid(a, b, SETTINGS) for a, b in drawn(300, d=8, n=300, m=200, apart=0.6)]
    assert 0.90 <= covered(found, mean_of(found)) <= 0.97


@pytest.mark.slow
def test_the_intervals_of_precision_and_recall_cover_the_mean_of_many() -> None:
    pairs = [precision_and_recall(a, b, neighbours=3, seed=0) for a, b in drawn(250, d=8, n=300, m=200, apart=0.3)]
    for found in ([pair[k] for pair in pairs] for k in (0, 1)):
        assert 0.93 <= covered(found, mean_of(found)) <= 0.985


def test_the_interval_of_the_inception_score_covers_the_mean_of_many() -> None:
    found = [inception_score(a) for a, _ in drawn(300, d=8, n=400, m=2, apart=0.3)]
    assert 0.93 <= covered(found, mean_of(found)) <= 0.97


def test_no_copy_among_n_images_means_at_most_three_in_n_and_shares_are_covered() -> None:
    """The rule of three."""
    nothing = share(np.zeros(1000, bool))
    assert nothing.low == 0.0
    assert 3 / 1000 < nothing.high < 4 / 1000
    random = np.random.default_rng(0)
    assert covered([share(random.random(500) < 0.03) for _ in range(500)], 0.03) >= 0.94


def test_with_classes_of_fixed_numbers_the_interval_is_narrower_and_covers() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(300) % 3
    centres = random.normal(size=(3, 6))
    found, iid = [], []
    for _ in range(300):
        a, b = (centres[labels] + 0.7 * random.normal(size=(300, 6)) for _ in range(2))
        found.append(fid_and_fid_infinity(described(a * 1.3, labels), described(b, labels)))
        iid.append(fid_and_fid_infinity(described(a * 1.3), described(b))[0])
    fids, infinities = ([pair[k] for pair in found] for k in (0, 1))
    truth = frechet(*(scale**2 * (np.cov(centres.T, bias=True) + 0.49 * np.eye(6)) for scale in (1.3, 1.0)),
                    0.3 * centres.mean(axis=0))  # fmt: skip
    assert 0.93 <= covered(fids, mean_of(fids)) <= 0.98
    assert 0.93 <= covered(infinities, truth) <= 0.98
    assert covered(iid, mean_of(iid)) > 0.96
    assert np.mean([a.high - a.low for a in fids]) < 0.9 * np.mean([a.high - a.low for a in iid])


def test_at_the_sizes_of_the_default_run_fid_at_infinity_has_little_of_the_bias_and_ranks_right() -> None:
    """1438 images against 359, with 64 features. The model of few features is worse, but has less bias."""
    d, random, found = 64, np.random.default_rng(0), []
    scale = 0.8 ** np.arange(d)
    worse_scale = scale * np.where(np.arange(d) < 6, 1.0, 0.0) * 1.02 + 1e-4
    truth = frechet(np.diag(worse_scale**2), np.diag(scale**2), np.zeros(d))
    for _ in range(10):
        reference, perfect, worse = (
            described(random.normal(size=(rows, d)) * std)
            for rows, std in ((359, scale), (1438, scale), (1438, worse_scale))
        )
        found.append([value.value for each in (perfect, worse) for value in fid_and_fid_infinity(each, reference)])
    fid, infinity, fid_of_worse, infinity_of_worse = np.mean(found, axis=0)
    assert abs(infinity) < 0.1 * fid
    assert abs(infinity_of_worse - truth) < 0.3 * abs(fid_of_worse - truth)
    assert infinity < infinity_of_worse


@pytest.mark.slow
@pytest.mark.parametrize("metric", [lambda a, b: fid_and_fid_infinity(a, b)[0], lambda a, b: kid(a, b, SETTINGS)])
@pytest.mark.parametrize("paired", [True, False])
def test_the_interval_of_a_difference_covers_the_true_one(
    metric: Callable[[Described, Described], Measured], paired: bool
) -> None:
    """Two models against the same reference images; a pair of images shares 0.9 of its noise."""
    d, n, m, random, found = 8, 300, 200, np.random.default_rng(0), []
    base, *_ = two_gaussians(d, 0.0)
    one, other = (base * (1 + k * np.linspace(-1, 1, d)) for k in (0.1, 0.4))
    for _ in range(250):
        noise, reference = random.normal(size=(n, d)), described(random.normal(size=(m, d)) @ base.T)
        fresh = random.normal(size=(n, d))
        again = 0.9 * noise + np.sqrt(0.19) * fresh if paired else fresh
        a, b = (metric(described(each @ factor.T), reference) for each, factor in ((noise, one), (again, other)))
        contest = difference(a, b, paired=paired)
        assert contest is not None
        found.append((contest.value, contest.standard_error))
    values, errors = np.array(found).T
    share_covered = np.mean(np.abs(values - values.mean()) <= 1.96 * errors)
    assert 0.92 <= share_covered <= 0.985
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.2)
