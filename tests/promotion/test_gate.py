"""The gate's decision: every rule is judged, and more images are drawn only while they can decide."""

import math
from typing import Any

import pytest
from fixed_contest import COPIES, FixedContest, noisy, promote

from ddpm.measuring.measured import Pair
from ddpm.promotion.gate import MEMORIZED, Decision, critical, decide, differences
from ddpm.promotion.settings import Rule
from ddpm.reporting.decisions import rules_table

PROTOCOL = {"n": 1000, "seed": 0, "drawing": {"sampler": "ddim"}, "reference_hash": "r", "extractor_hash": "e"}
BETTER = Rule(figure="fid", better_by=0.1)
NOT_WORSE = Rule(figure="recall", worse_by_at_most=0.1)


def record(**changes: Any) -> dict[str, Any]:
    metrics = {"fid": 10.0, "kid": 0.02, "recall": 0.8} | dict.fromkeys(MEMORIZED, 0.01)
    return {**metrics, "floor": {"fid": 4.0, "kid": 0.005}, "protocol": PROTOCOL} | changes


def decided(candidate: dict[str, Any], champion: dict[str, Any] | None, *rules: Rule, **options: Any) -> Decision:
    contest = FixedContest(candidate, champion)
    return decide(candidate, promote(*rules), contest, has_champion=champion is not None, **options)


def reasons(decision: Decision) -> str:
    return " / ".join(decision.reasons)


def test_a_first_version_is_judged_by_the_absolute_rules_and_draws_nothing() -> None:
    decision = decide(record(), promote(), None, has_champion=False)
    assert decision.promote
    assert decision.images is None
    assert [verdict.outcome for verdict in decision.verdicts] == ["no champion", *["passed"] * 6]
    assert "FID better by 10%: there is no champion to compare with" in reasons(decision)
    far = decide(record(fid=20.1), promote(), None, has_champion=False)
    assert not far.promote
    assert "FID 20.1 is above 5 times the floor 4, measured on 1,000 images" in reasons(far)


@pytest.mark.parametrize(("fid", "promoted"), [(8.99, True), (9.0, True), (9.01, False), (10.0, False), (11.0, False)])
def test_the_candidate_must_be_better_by_the_margin(fid: float, promoted: bool) -> None:
    assert decided(record(fid=fid), record()).promote is promoted


def test_every_rule_is_in_the_decision_also_if_the_first_one_fails() -> None:
    decision = decided(record(fid=30.0, memorized_share=0.5), record())
    assert [verdict.outcome for verdict in decision.verdicts] == ["failed", "failed", "failed", *["passed"] * 4]
    assert len(decision.reasons) == 7
    assert "worse than the champion's 10: not better" in reasons(decision)


def test_a_candidate_that_equals_the_champion_bit_for_bit_is_kept_at_the_first_look() -> None:
    contest = FixedContest(record(), record())
    decision = decide(record(), promote(Rule(figure="fid", better_by=0.0)), contest, has_champion=True)
    assert (decision.promote, contest.looks) == (False, [100])
    assert "is equal to the champion's" in reasons(decision)


@pytest.mark.parametrize("name", MEMORIZED)
def test_a_rule_whose_metric_is_missing_fails_by_name(name: str) -> None:
    lacking = {key: value for key, value in record(fid=5.0).items() if key != name}
    decision = decided(lacking, record())
    assert not decision.promote
    assert f"({name}) was not measured, so the rule fails" in reasons(decision)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("figure", ["fid", "memorized_share"])
def test_a_metric_that_is_not_finite_never_promotes(figure: str, value: float | None) -> None:
    for champion in (None, record()):
        assert not decided(record(**{figure: value}), champion).promote


def test_bits_per_dim_that_were_not_measured_name_the_setting_that_measures_them() -> None:
    for rule in (Rule(figure="bits_per_dim_ode", at_most=3.0), Rule(figure="bits_per_dim_ode", better_by=0.0)):
        decision = decided(record(), record(), rule)
        assert not decision.promote
        assert "set evaluate.bits_per_dim above 0" in reasons(decision)


def test_a_champion_whose_metric_is_not_finite_is_no_obstacle_and_a_missing_one_is_no_victory() -> None:
    assert decided(record(), record(fid=math.nan)).promote
    assert not decided(record(), record(fid=None)).promote
    assert not decided(record(fid=None), record(fid=None)).promote


def test_a_metric_that_is_unfit_leaves_the_decision_to_a_person_and_says_why() -> None:
    unfit = {"fid": "FID does not rise with blur"}
    decision = decided(record(fid=1.0), record(), unfit=unfit)
    assert (decision.promote, decision.person) == (False, True)
    assert "FID better by 10%: not judged, because FID does not rise with blur" in reasons(decision)
    refused = decided(record(fid=1.0, memorized_share=0.5), record(), unfit=unfit)
    assert (refused.promote, refused.person) == (False, False)


def test_a_metric_that_is_unfit_shows_its_value_and_what_it_would_have_decided_to_the_person() -> None:
    unfit = {"fid": "FID does not rise with blur"}
    decision = decided(record(fid=90.0), record(), unfit=unfit)
    assert (decision.promote, decision.person) == (False, True)
    better, floors, *_ = decision.verdicts
    assert (better.outcome, better.otherwise, better.comparison) == ("unfit", "failed", "worse")
    assert (floors.outcome, floors.otherwise) == ("unfit", "failed")
    assert "for a person: FID 90 is 80 ± " in better.sentence
    assert "worse than the champion's 10: not better" in better.sentence
    assert floors.sentence.endswith("for a person: FID 90 is above 5 times the floor 4, measured on 1,000 images")
    assert floors.to_json()["candidate"]["value"] == 90.0
    shown = [row[-1] for row in rules_table(decision.to_json()["rules"]).rows]
    assert shown[:2] == ["not judged (would have been: failed)"] * 2
    missing = decided(record(fid=None), record(), unfit=unfit)
    assert missing.verdicts[0].sentence == "FID better by 10%: not judged, because FID does not rise with blur"


def test_nothing_more_is_drawn_for_a_metric_that_does_not_decide() -> None:
    decision, numbers = by_looks(*[look(9.5, 10.0, 0.5)] * 3, unfit={"fid": "no"})
    assert (decision.person, numbers) == (True, [100])
    assert decision.verdicts[0].otherwise == "undecided"


def test_the_other_rules_decide_about_a_first_model_if_a_metric_is_unfit() -> None:
    unfit = {"fid": "FID does not rise with blur"}
    first = decided(record(fid=1.0), None, unfit=unfit)
    assert (first.promote, first.person) == (True, False)
    assert "there is no champion that could be lost, so the other rules decide" in reasons(first)
    assert not decided(record(fid=1.0, memorized_share=0.5), None, unfit=unfit).promote
    alone = decide(record(), promote(BETTER), None, has_champion=False, unfit=unfit)
    assert (alone.promote, alone.person) == (False, True)


def test_seconds_per_image_are_measured_in_the_contest_also_without_a_champion() -> None:
    contest = FixedContest(record(seconds_per_image=0.5))
    for limit, promoted in ((1.0, True), (0.1, False)):
        rule = Rule(figure="seconds_per_image", at_most=limit)
        assert decide(record(), promote(rule), contest, has_champion=False).promote is promoted


def look(new: float, old: float, error: float) -> Pair:
    return Pair(noisy(new, error, seed=1), noisy(old, error, seed=2))


def by_looks(
    *pairs: Pair, rules: tuple[Rule, ...] = (BETTER,), most: int = 400, **options: Any
) -> tuple[Decision, list[int]]:
    contest = FixedContest(fixed={"fid": pairs}, candidate=record(), champion=record())
    return decide(record(), promote(*rules, max_images=most), contest, has_champion=True, **options), contest.looks


def test_images_are_drawn_until_the_comparison_is_decided_and_no_further() -> None:
    unclear, clear, worse = look(8.5, 10.0, 0.8), look(8.5, 10.0, 0.2), look(11.0, 10.0, 0.1)
    decision, numbers = by_looks(unclear, clear, unclear)
    assert (decision.promote, decision.images, numbers) == (True, 200, [100, 200])
    decision, numbers = by_looks(worse, clear)
    assert (decision.promote, numbers) == (False, [100])
    assert decision.verdicts[0].comparison == "worse"


def test_a_gain_that_the_interval_puts_out_of_reach_ends_the_drawing() -> None:
    decision, numbers = by_looks(look(9.9, 10.0, 0.02))
    assert (decision.promote, numbers) == (False, [100])
    assert decision.verdicts[0].comparison == "better"
    assert "the required 10% are out of reach" in reasons(decision)


def test_still_undecided_keeps_the_champion_and_says_what_to_do() -> None:
    decision, numbers = by_looks(*[look(9.5, 10.0, 0.5)] * 3)
    assert (decision.promote, decision.person, numbers) == (False, False, [100, 200, 400])
    [verdict] = decision.verdicts
    assert (verdict.outcome, verdict.comparison) == ("undecided", "undecided")
    assert "FID is undecided after 400 images: the difference -0.5 ± " in reasons(decision)
    assert "may be chance, so the champion stays; raise promote.max_images to 800 or more" in reasons(decision)


def test_where_another_rule_fails_nothing_more_is_drawn_and_the_comparison_is_shown_all_the_same() -> None:
    impossible = Rule(figure="recall", at_least=0.9)
    decision, numbers = by_looks(look(9.5, 10.0, 0.5), rules=(BETTER, impossible))
    assert numbers == [100]
    assert [verdict.outcome for verdict in decision.verdicts] == ["undecided", "failed"]
    assert "undecided after 100 images" in reasons(decision)


def test_the_looks_double_and_share_the_error() -> None:
    assert promote(max_images=6000).looks(1438) == (1438, 2876, 5752)
    assert promote(max_images=6000).looks(10_000) == (10_000,)
    assert critical(1) == pytest.approx(1.96, abs=1e-3)
    assert critical(3) == pytest.approx(2.394, abs=1e-3)


def test_records_of_models_that_draw_differently_compare_and_those_of_other_protocols_do_not() -> None:
    assert differences(record(), record(protocol=PROTOCOL | {"drawing": {"by": "hand"}})) == []
    assert differences(record(), record(protocol=PROTOCOL | {"n": 500})) == ["n: 1000 and 500"]
    shorter = {key: value for key, value in PROTOCOL.items() if key != "seed"}
    assert differences(record(), record(protocol=shorter)) == ["seed: 0 and None"]


def test_too_few_images_to_find_copies_are_warned_of_without_changing_the_decision() -> None:
    few = decide(record(protocol=PROTOCOL | {"n": 25}), promote(*COPIES), None, has_champion=False)
    assert few.promote
    assert "warning: 25 images are too few to show that the share of copies is within 5.00%" in reasons(few)
    assert "it may be 12%; set sample.images to at least 60" in reasons(few)
    enough = decide(record(protocol=PROTOCOL | {"n": 60}), promote(*COPIES), None, has_champion=False)
    assert "warning" not in reasons(enough)


def test_the_stored_decision_has_both_values_intervals_and_the_verdict_of_every_rule() -> None:
    decision, _ = by_looks(look(8.0, 10.0, 0.1), rules=(BETTER, Rule(figure="recall", at_least=0.5)))
    stored = decision.to_json()
    assert stored["images"] == 100
    fid, recall = stored["rules"]
    assert fid["rule"] == {"figure": "fid", "better_by": 0.1}
    assert (fid["outcome"], fid["comparison"], fid["words"]) == ("passed", "better", "FID better by 10%")
    assert fid["difference"]["low"] < fid["difference"]["value"] == -2.0 < fid["difference"]["high"] < 0
    assert recall["candidate"] == {"value": 0.8, "low": None, "high": None}
    assert recall["champion"] is None
