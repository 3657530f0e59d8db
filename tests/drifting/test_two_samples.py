"""The permutation test holds its rate of false alarms, finds what differs, and its distances are those of measuring."""

import dataclasses

import numpy as np
import pytest
import torch

from ddpm.drifting import statistics
from ddpm.drifting.two_samples import Sample, compare
from ddpm.measuring.features.extractor import Described
from ddpm.measuring.frechet import frechet_distance
from ddpm.measuring.kernel_distance import kid
from ddpm.params import load as load_params

RATE = 0.1


def sample(random: np.random.Generator, n: int) -> Sample:
    """Pictures whose properties depend on each other, with ties and a rare class, as real ones have."""
    features = random.standard_normal((n, 6)) @ np.diag([3, 2, 1, 1, 0.5, 0.1])
    light = 100 + 10 * features[:, 0]
    return Sample(
        features,
        brightness=light,
        contrast=np.round(light / 5),
        side=random.choice([32.0, 48.0, 64.0], n),
        aspect=np.ones(n),
        classes=tuple(random.choice(["cat", "dog", "newt"], n, p=[0.6, 0.37, 0.03])),
    )


def test_the_distances_are_frechet_distance_and_kid_of_measuring() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((90, 8))
    division = np.arange(90)[None] < 40
    described = [
        Described(torch.from_numpy(part), torch.zeros(len(part), 0)) for part in (features[:40], features[40:])
    ]
    assert statistics.frechet(features, division)[0] == pytest.approx(frechet_distance(*described))
    settings = dataclasses.replace(load_params().evaluate, kid_subset_size=40, kid_subsets=1)
    equal = [described[0], described[1][:40]]
    whole = statistics.kernel(features[:80], division[:, :80])[0]
    assert whole == pytest.approx(kid(equal[0], equal[1], settings).value, rel=1e-6)


def test_of_many_features_the_fréchet_distance_sees_the_principal_components() -> None:
    random = np.random.default_rng(0)
    few = random.standard_normal((150, 5)) + np.arange(150)[:, None] / 50
    rotated = few @ np.linalg.qr(random.standard_normal((200, 5)))[0].T
    division = np.arange(150)[None] < 70
    assert statistics.frechet(rotated, division)[0] == pytest.approx(statistics.frechet(few, division)[0], rel=1e-6)


def test_the_bayes_factor_favours_equal_shares_where_they_are_equal() -> None:
    classes = np.repeat([0, 1], [100, 100])
    even = (np.arange(200) % 2 == 0)[None]
    apart = (np.arange(200) < 100)[None]
    assert statistics.shares(classes, even)[0] < 0 < statistics.shares(classes, apart)[0]
    # Two pictures, two classes, Jeffreys' prior: by hand, log of (1/2)(1/2) over (1/2)(1/4).
    assert statistics.shares(np.array([0, 1]), np.array([[True, False]]))[0] == pytest.approx(np.log(2))


def test_the_largest_gap_is_that_of_scipy_with_ties() -> None:
    from scipy.stats import ks_2samp

    random = np.random.default_rng(0)
    values = random.integers(0, 9, 70).astype(float)
    for seed in range(5):
        division = np.random.default_rng(seed).permutation(70)[None] < 25
        expected = ks_2samp(values[division[0]], values[~division[0]]).statistic
        assert statistics.largest_gap(values, division)[0] == pytest.approx(expected)


def test_equal_data_raise_as_many_false_alarms_as_stated() -> None:
    """200 draws; of a binomial with the stated rate, 6 alarms or fewer, and 35 or more, have less than 0.03 %."""
    random = np.random.default_rng(1)
    alarms = sum(compare(sample(random, 40), sample(random, 60), false_alarms=RATE).drifted for _ in range(200))
    assert 7 <= alarms <= 34


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"side": lambda one: one.side * 2}, "side"),
        ({"aspect": lambda one: one.aspect + (np.arange(len(one)) % 3 == 0)}, "aspect"),
        ({"brightness": lambda one: one.brightness + 15}, "brightness"),
        ({"contrast": lambda one: one.contrast * 1.3}, "contrast"),
        ({"classes": lambda one: tuple("dog" if k % 2 else name for k, name in enumerate(one.classes))}, "shares"),
        ({"features": lambda one: one.features + 0.8}, "frechet"),
        ({"features": lambda one: one.features + 1.5}, "kernel"),
    ],
)
def test_a_difference_is_found_and_named(changed: dict, named: str) -> None:
    random = np.random.default_rng(2)
    own, reference = sample(random, 150), sample(random, 200)
    own = dataclasses.replace(own, **{name: change(own) for name, change in changed.items()})
    answer = compare(own, reference, false_alarms=0.01)
    assert answer.drifted
    found = {each.name: each for each in answer.compared}
    assert found[named].drifted
    assert found[named].value > found[named].threshold
    untouched = {"brightness", "side"} - set(changed)
    assert not any(found[name].drifted for name in untouched)


def test_the_same_pictures_get_the_same_answer_and_one_class_or_a_constant_is_no_difference() -> None:
    random = np.random.default_rng(3)
    own, reference = sample(random, 30), sample(random, 40)
    first, second = (compare(own, reference, false_alarms=RATE) for _ in range(2))
    assert first.p == second.p
    aspect = next(each for each in first.compared if each.name == "aspect")
    assert (aspect.value, aspect.threshold, aspect.p) == (0, 0, 1)
    without = compare(dataclasses.replace(own, classes=None), reference, false_alarms=RATE)
    assert "shares" not in [each.name for each in without.compared]
