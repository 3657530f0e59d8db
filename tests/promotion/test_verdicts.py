"""The verdict of one rule: directions, signs, margins, intervals that contain a limit."""

from typing import Any

import numpy as np
import pytest
from fixed_contest import noisy

from ddpm.measuring.measured import Measured, Pair, from_influences, share_interval
from ddpm.promotion import verdicts
from ddpm.promotion.settings import Rule

Z = 1.96


def outcome(rule: Rule, new: float, old: float, error: float = 1e-9) -> str:
    pair = Pair(noisy(new, error, seed=1), noisy(old, error, seed=2))
    return verdicts.relative(rule, pair, z=Z, images=100).outcome


@pytest.mark.parametrize(
    ("rule", "new", "old", "expected"),
    [
        ({"figure": "fid", "better_by": 0.1}, 9.0, 10.0, "passed"),
        ({"figure": "fid", "better_by": 0.1}, 9.1, 10.0, "failed"),
        ({"figure": "recall", "better_by": 0.1}, 0.881, 0.8, "passed"),
        ({"figure": "recall", "better_by": 0.1}, 0.87, 0.8, "failed"),
        ({"figure": "kid", "better_by": 0.1}, -0.0011, -0.001, "passed"),
        ({"figure": "kid", "better_by": 0.1}, -0.0009, -0.001, "failed"),
        ({"figure": "recall", "worse_by_at_most": 0.1}, 0.721, 0.8, "passed"),
        ({"figure": "recall", "worse_by_at_most": 0.1}, 0.71, 0.8, "failed"),
        ({"figure": "kid", "worse_by_at_most": 0.1}, -0.00091, -0.001, "passed"),
        ({"figure": "kid", "worse_by_at_most": 0.1}, -0.0008, -0.001, "failed"),
        ({"figure": "memorized_share", "worse_by_at_most": 0.1}, 0.01, 0.0, "failed"),
    ],
)
def test_a_margin_is_a_share_of_the_champions_absolute_value_in_the_direction_of_the_metric(
    rule: dict[str, Any], new: float, old: float, expected: str
) -> None:
    assert outcome(Rule(**rule), new, old) == expected


@pytest.mark.parametrize("requirement", ["better_by", "worse_by_at_most"])
def test_a_metric_that_the_champion_has_not_cannot_be_won(requirement: str) -> None:
    rule = Rule(figure="bits_per_dim_bound", **{requirement: 0.1})
    found = verdicts.relative(rule, Pair(noisy(3.0, 0.1, seed=1), None), z=Z, images=100)
    assert found.outcome == "failed"
    assert "of the champion was not measured" in found.sentence


@pytest.mark.parametrize(
    ("new", "error", "expected"),
    [
        (0.80, 0.01, "passed"),  # equal, and a loss of a tenth is excluded
        (0.80, 0.05, "undecided"),
        (0.70, 0.05, "undecided"),
        (0.60, 0.01, "failed"),
    ],
)
def test_not_worse_must_be_shown_and_is_not_presumed(new: float, error: float, expected: str) -> None:
    assert outcome(Rule(figure="recall", worse_by_at_most=0.1), new, 0.8, error) == expected


@pytest.mark.parametrize(
    ("new", "error", "expected"),
    [(8.5, 0.1, "passed"), (8.5, 1.0, "undecided"), (9.5, 0.1, "failed"), (9.5, 1.0, "undecided"), (11, 0.1, "failed")],
)
def test_better_needs_an_interval_without_zero_and_an_estimate_beyond_the_margin(
    new: float, error: float, expected: str
) -> None:
    assert outcome(Rule(figure="fid", better_by=0.1), new, 10.0, error) == expected


def test_what_pairs_share_cancels_and_what_independent_sets_share_does_not() -> None:
    new, old = noisy(9.0, 1.0, seed=1), noisy(10.0, 1.01, seed=1)
    rule = Rule(figure="fid", better_by=0.0)
    assert verdicts.relative(rule, Pair(new, old), z=Z, images=100).outcome == "passed"
    assert verdicts.relative(rule, Pair(new, old, paired=False), z=Z, images=100).outcome == "undecided"


def test_a_metric_without_influences_is_compared_by_both_intervals() -> None:
    rule = Rule(figure="fid", better_by=0.0)
    apart, touching = (
        Pair(Measured(8, 7.5, 8.5), Measured(10, 9.5, 10.5)),
        Pair(Measured(9, 8, 10), Measured(10, 9, 11)),
    )
    assert [verdicts.relative(rule, pair, z=Z, images=9).outcome for pair in (apart, touching)] == [
        "passed",
        "undecided",
    ]


def spreadless(new: float, old: float, figure: str, images: int = 100, **requirement: float) -> verdicts.Verdict:
    """Two models of which every image has the same influence, so that no spread was measured."""
    pair = Pair(*(from_influences(value, np.zeros(images), None) for value in (new, old)))
    return verdicts.relative(Rule(figure=figure, **requirement), pair, z=Z, images=images)


@pytest.mark.parametrize("figure", ["fid", "recall", "memorized_share"])
def test_equal_values_without_spread_are_neither_better_nor_worse(figure: str) -> None:
    better, not_worse = (
        spreadless(0.5, 0.5, figure, **requirement) for requirement in ({"better_by": 0.0}, {"worse_by_at_most": 0.0})
    )
    assert (better.outcome, better.comparison) == ("failed", "equal")
    assert (not_worse.outcome, not_worse.comparison) == ("passed", "equal")
    assert spreadless(0.0, 0.0, "memorized_share", worse_by_at_most=0.1).outcome == "passed"


@pytest.mark.parametrize("requirement", ["better_by", "worse_by_at_most"])
@pytest.mark.parametrize("new", [9.0, 11.0])
def test_a_difference_of_which_no_spread_was_measured_may_be_chance(new: float, requirement: str) -> None:
    verdict = spreadless(new, 10.0, "fid", **{requirement: 0.02})
    assert (verdict.outcome, verdict.comparison) == ("undecided", "undecided")
    assert "without any measured spread" in verdict.sentence
    assert verdict.difference == (new - 10.0, None, None), "JSON has no infinite number"
    pair = Pair(*(from_influences(value, np.zeros(2), None) for value in (new, 10.0)))
    last = verdicts.undecided(verdict, pair, images=100, most=150)
    assert f"the difference {new - 10:.3g}, of which no spread was measured, may be chance" in last.sentence


def test_shares_without_spread_differ_by_chance_if_those_of_so_many_images_do() -> None:
    """Of 20 images one class of ten may be missing by chance; of 1,000 it is missing."""
    few, many = (spreadless(1.0, 0.9, "classes_covered", images=n, better_by=0.05) for n in (20, 1000))
    assert (few.outcome, many.outcome) == ("undecided", "passed")
    assert spreadless(0.9, 1.0, "classes_covered", images=1000, worse_by_at_most=0.05).outcome == "failed"


def test_intervals_take_the_place_of_influences_without_spread() -> None:
    """No copy among either model's images, or one: the intervals of the shares know how many images there were."""
    rule = Rule(figure="memorized_share", better_by=0.0)
    none, some = (
        Measured(share, *share_interval(hits, 100 - hits), by_image=np.zeros(100))
        for share, hits in ((0, 0), (0.01, 1))
    )
    assert verdicts.relative(rule, Pair(none, some), z=Z, images=100).outcome == "undecided"


def test_held_out_images_that_cause_the_noise_are_named_in_place_of_more_generated_ones() -> None:
    rng = np.random.default_rng(0)
    new, old = (Measured(v, v, v, np.zeros(100), rng.standard_normal(30) * 5) for v in (9.5, 10.0))
    rule = Rule(figure="fid", better_by=0.1)
    pair = Pair(new, old)
    verdict = verdicts.undecided(verdicts.relative(rule, pair, z=Z, images=100), pair, images=100, most=150)
    assert "more held-out images can decide, and more generated ones hardly can" in verdict.sentence


def record(value: float, **interval: float) -> dict[str, Any]:
    return {"fid": value, "interval": {"fid": interval}, "floor": {"fid": 1.0}, "protocol": {}}


def test_an_absolute_limit_is_judged_on_the_value_and_an_interval_that_contains_it_is_remarked() -> None:
    rule = Rule(figure="fid", at_most=3.0)
    clear, near = (
        verdicts.absolute(rule, record(2.0, low=1.5, high=2.5)),
        verdicts.absolute(rule, record(2.9, low=2, high=4)),
    )
    assert (clear.outcome, clear.sentence) == ("passed", "FID 2 (1.5 to 2.5) is within 3")
    assert (near.outcome, near.sentence) == (
        "passed",
        "FID 2.9 (2 to 4) is within 3; the interval contains the limit, so this may be chance",
    )
    least = verdicts.absolute(Rule(figure="fid", at_least=3.0), record(2.9))
    assert (least.outcome, least.sentence) == ("failed", "FID 2.9 is below 3")


def test_a_floor_that_is_not_positive_gives_way_to_the_upper_end_of_its_interval() -> None:
    rule = Rule(figure="kid", floors_at_most=5.0)
    floor = {"kid": -0.0002, "interval": {"kid": {"low": -0.0014, "high": 0.001}}}
    passing, failing = ({"kid": value, "floor": floor, "protocol": {}} for value in (0.004, 0.006))
    assert verdicts.absolute(rule, passing).outcome == "passed"
    verdict = verdicts.absolute(rule, failing)
    assert verdict.outcome == "failed"
    assert "the upper end 0.001 of the floor's interval" in verdict.sentence


@pytest.mark.parametrize("floor", [None, {}, {"fid": None}, {"fid": float("nan")}])
def test_without_a_floor_a_rule_about_it_fails(floor: dict[str, Any] | None) -> None:
    rule = Rule(figure="fid", floors_at_most=5.0)
    assert verdicts.absolute(rule, {"fid": 1.0, "floor": floor, "protocol": {}}).outcome == "failed"
