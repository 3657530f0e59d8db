"""Decide whether a candidate becomes champion: all rules, and more images while a comparison is undecided.

No torch, server or files: what draws images is a `Contest`.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Protocol

from ddpm.measuring.measured import CONFIDENCE, Pair
from ddpm.measuring.metric_catalogue import JUDGED
from ddpm.promotion import verdicts
from ddpm.promotion.settings import Promote, Rule
from ddpm.promotion.verdicts import Verdict

MEMORIZED = tuple(metric.name for metric in JUDGED if metric.group == "copies")
"""Metrics of copies of training images, one for each way of comparing."""


class Contest(Protocol):
    """Images of the candidate and of the champion, drawn with the same seeds and labels, and what is measured on them.

    Without a champion, the metrics of the champion are None.
    """

    @property
    def images(self) -> int:
        """Images drawn of each so far."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences on what a person should know about the comparison."""

    def pairs(self, figures: Collection[str]) -> Mapping[str, Pair]:
        """Return these metrics, measured on all images drawn so far."""

    def draw_more(self, images: int) -> None:
        """Draw until there are so many images of each."""


@dataclass(frozen=True)
class Decision:
    """Whether the candidate becomes champion, with the verdict of every rule."""

    promote: bool
    person: bool
    """A person decides, because a rule is about a metric that must not decide."""
    verdicts: tuple[Verdict, ...]
    remarks: tuple[str, ...]
    images: int | None
    """Images drawn of each of candidate and champion; None if none were drawn."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """A sentence for each rule, then the remarks."""
        return (*(verdict.sentence for verdict in self.verdicts), *self.remarks)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as the registry stores them."""
        return {"rules": [verdict.to_json() for verdict in self.verdicts], "images": self.images}


def decide(
    record: Mapping[str, Any],
    promote: Promote,
    contest: Contest | None,
    *,
    has_champion: bool,
    unfit: Mapping[str, str] | None = None,
) -> Decision:
    """Judge the candidate by every rule.

    `record` is as in reports/metrics.json, with those metrics beside it that have a file of their own. `unfit` has the
    metrics that do not react as they should on these data, each with the reason: no rule about them decides, but its
    verdict says what it would have been. If the other rules hold, a person decides, or, for a first model, the other
    rules if there are any: there is no champion to lose. `contest` may be None if there is no champion or no rule
    compares with it.

    While no rule has failed and a comparison is undecided, the number of images is doubled, up to
    `promote.max_images`. The looks are known in advance, and each takes its part of the error of 1 - CONFIDENCE
    (Bonferroni), which bounds the error of all looks together whatever their dependence is.
    """
    measured = dict(record)
    if contest is not None and any(rule.figure == "seconds_per_image" for rule in promote.rules):
        seconds = contest.pairs(["seconds_per_image"])["seconds_per_image"].candidate
        if seconds is not None:
            measured |= {"seconds_per_image": seconds.value}
            interval = {"seconds_per_image": {"low": seconds.low, "high": seconds.high}}
            measured["interval"] = {**(record.get("interval") or {}), **interval}
    reasons = {rule: unfit[rule.figure] for rule in promote.rules if unfit and rule.figure in unfit}
    alone = {rule: _without_images(rule, measured, has_champion) for rule in promote.rules}
    found = {rule: verdict for rule, verdict in alone.items() if verdict is not None}
    open_rules = [rule for rule in promote.rules if rule not in found]
    if open_rules:
        assert contest is not None, "a rule compares with the champion"
        numbers = promote.looks(contest.images)
        failed = any(verdict.outcome == "failed" for rule, verdict in found.items() if rule not in reasons)
        deciding = [rule for rule in open_rules if rule not in reasons]
        found |= _by_contest(deciding, contest, numbers, most=promote.max_images, failed=failed)
        # Nothing more is drawn for a metric that does not decide.
        found |= _looked([rule for rule in open_rules if rule in reasons], contest, critical(len(numbers)))[0]
    found |= {rule: verdicts.not_judged(found[rule], reason) for rule, reason in reasons.items()}
    ordered = tuple(found[rule] for rule in promote.rules)
    good = all(verdict.outcome in ("passed", "no champion", "unfit") for verdict in ordered)
    by_others = not has_champion and _any(ordered, "passed")
    person = good and _any(ordered, "unfit") and not by_others
    remarks = (*warnings(record, promote), *(() if contest is None or not open_rules else contest.remarks))
    if good and by_others and _any(ordered, "unfit"):
        remarks = (*remarks, "there is no champion that could be lost, so the other rules decide")
    return Decision(good and not person, person, ordered, remarks, contest.images if contest and open_rules else None)


def critical(number_of_looks: int) -> float:
    """Return half the width of the interval of one look, in standard errors, by Bonferroni's bound over the looks."""
    return NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * number_of_looks))


def warnings(record: Mapping[str, Any], promote: Promote) -> list[str]:
    """Return what too few images leave open: the share of copies.

    If none of n images is a copy, the share of copies is below 3 / n with 95% confidence (the rule of three), so fewer
    than 3 / `at_most` images cannot show that the share is within the limit.
    """
    n = record["protocol"].get("n")
    limits = [rule.value for rule in promote.rules if rule.figure in MEMORIZED and rule.requirement == "at_most"]
    limit = min(limits, default=0.0)
    if n is None or limit <= 0 or n * limit >= 3:
        return []
    return [
        f"warning: {n:,} images are too few to show that the share of copies is within {limit:.2%}: even if none "
        f"is a copy, it may be {min(1.0, 3 / n):.0%}; set sample.images to at least {math.ceil(3 / limit):,}"
    ]


def most_copies(record: Mapping[str, Any]) -> float | None:
    """Return the largest share of copies in a record, in 0..1; None if it has none that is finite."""
    shares = [share for name in MEMORIZED if (share := verdicts.finite(record, name)) is not None]
    return max(shares, default=None)


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return the differences between the protocols of two records, as `key: value in a and value in b`.

    The settings of sampling (`drawing`) may differ, because each model is measured by its own recipe.
    """
    one, other = a["protocol"], b["protocol"]
    forms = [] if a.get("version") == b.get("version") else [f"version: {a.get('version')} and {b.get('version')}"]
    return forms + [
        f"{key}: {_shown(one.get(key), other.get(key))} and {_shown(other.get(key), one.get(key))}"
        for key in sorted((one.keys() | other.keys()) - {"drawing"})
        if one.get(key) != other.get(key)
    ]


def _shown(value: Any, other: Any) -> str:
    """Return a value of a protocol as text: of an extractor only the parts in which it differs from the other one."""
    if not isinstance(value, Mapping):
        return str(value)
    if not isinstance(other, Mapping):
        return str(value.get("name"))
    return ", ".join(f"{part} {content}" for part, content in value.items() if content != other.get(part))


def _without_images(rule: Rule, record: Mapping[str, Any], has_champion: bool) -> Verdict | None:
    """Return the verdict of a rule that needs no images of the champion; None for a comparison."""
    if not rule.is_relative:
        return verdicts.absolute(rule, record)
    return None if has_champion else verdicts.without_champion(rule)


def _by_contest(
    rules: list[Rule], contest: Contest, numbers: tuple[int, ...], *, most: int, failed: bool
) -> dict[Rule, Verdict]:
    """Compare by these rules, with more images while that can change the decision; `failed`: another rule failed.

    `numbers` are those of images at each look, and `most` is the limit that they keep.
    """
    found: dict[Rule, Verdict] = {}
    pairs: Mapping[str, Pair] = {}
    open_rules = rules
    for images in numbers if rules else ():
        if images > contest.images:
            print(f"undecided after {contest.images:,} images of each; drawing until there are {images:,}", flush=True)
            contest.draw_more(images)
        looked, pairs = _looked(open_rules, contest, critical(len(numbers)))
        found |= looked
        open_rules = [rule for rule in open_rules if found[rule].outcome == "undecided"]
        if failed or not open_rules or _any(found.values(), "failed"):
            return found
    for rule in open_rules:
        found[rule] = verdicts.undecided(found[rule], pairs[rule.figure], images=contest.images, most=most)
    return found


def _looked(rules: list[Rule], contest: Contest, z: float) -> tuple[dict[Rule, Verdict], Mapping[str, Pair]]:
    """Compare by these rules on the images drawn so far; return the verdicts and the metrics."""
    pairs = contest.pairs({rule.figure for rule in rules}) if rules else {}
    found = {rule: verdicts.relative(rule, pairs[rule.figure], z=z, images=contest.images) for rule in rules}
    return found, pairs


def _any(found: Collection[Verdict], outcome: str) -> bool:
    return any(verdict.outcome == outcome for verdict in found)
