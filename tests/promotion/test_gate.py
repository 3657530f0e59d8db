import math
from dataclasses import replace
from typing import Any

import pytest

from ddpm.errors import UserError
from ddpm.promotion.gate import MEMORIZED, Decision, decide, differences
from ddpm.promotion.settings import Promote

RULE = Promote(
    name="ddpm",
    metric="fid",
    min_improvement=0.1,
    max_over_floor=5.0,
    max_memorized_share=0.05,
    approval="auto",
)
DRAWING = {"sampler": "ddim", "steps": 25}
PROTOCOL = {"n": 1000, "seed": 0, "drawing": DRAWING, "reference_hash": "r", "extractor_hash": "e"}


def record(**changes: Any) -> dict[str, Any]:
    figures = {"fid": 10.0, "fid_spread": 0.1, "kid": 0.02, "kid_spread": 0.001} | dict.fromkeys(MEMORIZED, 0.01)
    return {**figures, "floor": {"fid": 4.0, "kid": 0.005, "kid_spread": 0.001}, "protocol": PROTOCOL} | changes


def said(decision: Decision) -> str:
    return " / ".join(decision.reasons)


def test_without_a_champion_a_sound_candidate_is_promoted_and_the_reason_says_so() -> None:
    decision = decide(record(), None, RULE)
    assert decision.promote
    assert "there is no champion" in said(decision)


def test_without_a_champion_a_candidate_far_above_the_floor_is_not_promoted() -> None:
    decision = decide(record(fid=20.1), None, RULE)
    assert not decision.promote
    assert "fid 20.1 is above 5 times the floor 4" in said(decision)


def test_a_candidate_at_exactly_the_limits_passes() -> None:
    assert decide(record(fid=20.0, memorized_share=0.05), None, RULE).promote


@pytest.mark.parametrize(("fid", "promoted"), [(8.99, True), (9.0, True), (9.01, False), (10.0, False), (11.0, False)])
def test_the_candidate_must_be_better_by_the_asked_share(fid: float, promoted: bool) -> None:
    assert decide(record(fid=fid), record(fid=10.0), RULE).promote is promoted


def test_with_no_improvement_asked_a_tie_keeps_the_champion() -> None:
    rule = replace(RULE, min_improvement=0.0)
    assert not decide(record(fid=10.0), record(fid=10.0), rule).promote
    assert decide(record(fid=9.999), record(fid=10.0), rule).promote


def test_an_improvement_within_the_spread_is_named_as_perhaps_chance() -> None:
    within = decide(record(fid=8.5, fid_spread=2.0), record(fid=10.0), RULE)
    beyond = decide(record(fid=8.5, fid_spread=0.2), record(fid=10.0), RULE)
    assert within.promote
    assert "may be chance" in said(within)
    assert "may be chance" not in said(beyond)


def test_kid_is_judged_by_its_own_figures() -> None:
    rule = replace(RULE, metric="kid")
    assert decide(record(fid=99.0, kid=0.01), record(kid=0.02), rule).promote
    assert not decide(record(fid=0.1, kid=0.03), record(kid=0.02), rule).promote


def test_a_floor_of_kid_below_zero_gives_way_to_its_spread() -> None:
    rule = replace(RULE, metric="kid")
    floor = {"kid": -0.0002, "kid_spread": 0.001}
    assert decide(record(kid=0.004, floor=floor), None, rule).promote
    decision = decide(record(kid=0.006, floor=floor), None, rule)
    assert not decision.promote
    assert "the floor's standard deviation 0.001" in said(decision)


def test_against_a_champion_below_zero_better_still_means_lower() -> None:
    rule = replace(RULE, metric="kid")
    assert not decide(record(kid=-0.0005), record(kid=-0.001), rule).promote
    assert decide(record(kid=-0.0012), record(kid=-0.001), rule).promote


def test_a_candidate_that_copies_training_images_is_not_promoted_however_good() -> None:
    decision = decide(record(fid=4.0, memorized_share=0.06), record(fid=10.0), RULE)
    assert not decision.promote
    assert "memorized_share 6.00% is above the limit of 5.00%" in said(decision)


@pytest.mark.parametrize("way", MEMORIZED[1:])
def test_copies_found_in_one_way_alone_are_enough_and_the_way_is_named(way: str) -> None:
    ways = dict.fromkeys(MEMORIZED, 0.0)
    decision = decide(record(**ways | {way: 0.06}), record(), RULE)
    assert not decision.promote
    assert f"{way} 6.00% is above the limit of 5.00%" in said(decision)
    assert decide(record(**ways | {way: 0.05}, fid=5.0), record(), RULE).promote


@pytest.mark.parametrize("way", MEMORIZED)
def test_a_candidate_that_lacks_a_share_of_copies_is_not_promoted(way: str) -> None:
    lacking = {name: value for name, value in record(fid=5.0).items() if name != way}
    decision = decide(lacking, record(), RULE)
    assert not decision.promote
    assert f"{way} is None, expected a finite number" in said(decision)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("figure", ["fid", "memorized_share", "memorized_share_half"])
def test_a_figure_that_is_not_finite_is_never_promoted(figure: str, value: float | None) -> None:
    for champion in (None, record()):
        decision = decide(record(**{figure: value}), champion, RULE)
        assert not decision.promote
        assert "finite" in said(decision)


@pytest.mark.parametrize("floor", [None, {}, {"fid": None}, {"fid": math.nan}])
def test_without_a_floor_nothing_is_promoted(floor: dict[str, Any] | None) -> None:
    assert not decide(record(floor=floor), None, RULE).promote


def test_a_champion_without_a_finite_figure_is_no_obstacle() -> None:
    assert decide(record(), record(fid=None), RULE).promote


def test_records_of_different_protocols_are_refused_and_the_difference_named() -> None:
    other = record(protocol=PROTOCOL | {"n": 500})
    assert differences(record(), other) == ["n: 1000 and 500"]
    with pytest.raises(UserError, match="n: 1000 and 500"):
        decide(record(), other, RULE)


def test_records_of_models_that_draw_differently_compare_since_each_is_judged_as_it_is_used() -> None:
    protocol = PROTOCOL | {"drawing": {"by": "hand"}}
    assert differences(record(), record(protocol=protocol)) == []
    assert decide(record(fid=5.0), record(protocol=protocol), RULE).promote


def test_a_protocol_that_lacks_an_entry_is_a_different_one() -> None:
    shorter = {key: value for key, value in PROTOCOL.items() if key != "seed"}
    assert differences(record(), record(protocol=shorter)) == ["seed: 0 and None"]


def test_all_that_speaks_against_a_candidate_is_said_at_once() -> None:
    decision = decide(record(fid=30.0, memorized_share=0.5), record(fid=10.0), RULE)
    assert len(decision.reasons) == 3
    assert "above 5 times" in said(decision)
    assert "above the limit" in said(decision)
    assert "20 worse" in said(decision)


def test_deciding_changes_neither_record() -> None:
    candidate, champion = record(), record(fid=12.0)
    decide(candidate, champion, RULE)
    assert (candidate, champion) == (record(), record(fid=12.0))


def test_the_number_of_images_is_named_and_too_few_are_warned_of_without_changing_the_decision() -> None:
    few = record(fid=8.0, protocol=PROTOCOL | {"n": 25}, spread={"blocks": 3, "n": 8, "reason": "a block is small"})
    decision = decide(few, None, RULE)
    assert decision.promote
    assert "measured on 25 images" in said(decision)
    assert "warning: the spread of fid is unknown, because a block is small" in said(decision)
    assert "warning: 25 images are too few to show that the share of copies is within 5.00%" in said(decision)
    assert "it may be 12%; set sample.images to at least 60" in said(decision)
    assert "warning" not in said(decide(record(fid=8.0, protocol=PROTOCOL | {"n": 60}), None, RULE))
