"""The verdict of one rule about a candidate: pure functions of records and of measured metrics, without torch."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from ddpm.measuring.measured import Measured, Pair, Z, difference, share_interval
from ddpm.promotion.settings import Rule

Outcome = Literal["passed", "failed", "undecided", "no champion", "unfit"]
"""undecided: more images could tell; unfit: a person decides, because the metric does not react as it should."""
Comparison = Literal["better", "worse", "equal", "undecided"]

_COST = {"likelihood": "set evaluate.bits_per_dim above 0 and run `dvc repro evaluate`"}
"""What to do about a missing metric, by its group."""


class Interval(NamedTuple):
    """A value with its interval; the ends are None if they are unknown."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.4g}" + ("" if self.low is None else f" ({self.low:.4g} to {self.high:.4g})")


@dataclass(frozen=True)
class Verdict:
    """What one rule says about the candidate."""

    rule: Rule
    outcome: Outcome
    sentence: str
    """Values, intervals and verdict in words."""
    candidate: Interval | None = None
    champion: Interval | None = None
    difference: Interval | None = None
    """Candidate less champion, with the interval of all looks together."""
    comparison: Comparison | None = None
    """Of candidate and champion; None if the rule does not compare them."""
    otherwise: Outcome | None = None
    """With outcome `unfit`: what the rule would say if the metric might decide; None if the metric is missing."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as the registry stores them."""
        values = asdict(self) | {"rule": {"figure": self.rule.figure, self.rule.requirement: self.rule.value}}
        for name in ("candidate", "champion", "difference"):
            interval = getattr(self, name)
            values[name] = None if interval is None else interval._asdict()
        return values | {"words": str(self.rule)}


def absolute(rule: Rule, record: Mapping[str, Any]) -> Verdict:
    """Judge the candidate's record by a rule that needs no champion.

    The value decides. The sentence has its interval, and a remark where that contains the limit. Without a finite value
    the rule fails.
    """
    label, value = rule.metric.label, finite(record, rule.figure)
    if value is None:
        return missing(rule, record.get(rule.figure))
    measured = _interval(record, rule.figure, value)
    limit, called = rule.value, _text(rule, rule.value)
    if rule.requirement == "floors_at_most":
        floor = finite(record.get("floor") or {}, rule.figure)
        if floor is None:
            return Verdict(rule, "failed", f"the floor of {label} is missing, so the rule fails: {rule}", measured)
        called = f"{rule.value:g} times the floor {floor:.4g}"
        if floor <= 0:
            # KID is unbiased and the floor's true value is zero, so its estimate may be negative.
            floor = _interval(record["floor"], rule.figure, floor).high or 0.0
            called = (
                f"{rule.value:g} times the upper end {floor:.4g} of the floor's interval (the floor is not positive)"
            )
        limit = rule.value * floor
    passed = value >= limit if rule.requirement == "at_least" else value <= limit
    relation = {True: "within", False: "above"}[passed]
    if rule.requirement == "at_least":
        relation = {True: "at least", False: "below"}[passed]
    sentence = f"{label} {_of_group(rule, measured)} is {relation} {called}"
    n = (record.get("protocol") or {}).get("n")
    if rule.requirement == "floors_at_most" and n is not None:
        sentence += f", measured on {n:,} images"
    if measured.low is not None and measured.high is not None and measured.low < limit < measured.high:
        sentence += "; the interval contains the limit, so this may be chance"
    return Verdict(rule, "passed" if passed else "failed", sentence, measured)


def relative(rule: Rule, pair: Pair, *, z: float, images: int) -> Verdict:
    """Compare candidate and champion by a rule.

    `z` standard errors are half of the interval. better_by passes if the interval of the difference excludes a
    candidate that is equal or worse, and the estimated gain reaches the margin; it fails if the interval excludes a
    gain of the margin. worse_by_at_most passes if the interval excludes a loss beyond the margin, and fails if it
    excludes a smaller one. Otherwise the verdict is undecided after so many `images` of each.

    Equal values without any spread, such as those of two models that draw equal images, are not better and not worse.
    Where the values differ and no spread was measured, chance is not zero but unknown (see `_bounds`).
    """
    new, old = pair.candidate, pair.champion
    if new is None or not math.isfinite(new.value):
        return missing(rule, None if new is None else new.value)
    if old is None:
        sentence = f"{rule.metric.label} ({rule.figure}) of the champion was not measured, so the rule fails: {rule}"
        return Verdict(rule, "failed", sentence, _of(new))
    if not math.isfinite(old.value):
        sentence = f"the champion has no finite {rule.metric.label}, so the candidate is better"
        return Verdict(rule, "passed", sentence, _of(new), comparison="better")
    sign = 1.0 if rule.metric.better == "lower" else -1.0
    margin = rule.value if rule.requirement == "better_by" else -rule.value
    required = old.times(1 - sign * margin * math.copysign(1.0, old.value))
    plain, excess = (_bounds(rule, new, other, pair, z=z, images=images) for other in (old, required))
    losses = sorted((sign * plain.low, sign * plain.high))
    excesses = sorted((sign * excess.low, sign * excess.high))
    comparison: Comparison = "undecided"
    if plain.low == plain.high == 0:
        comparison = "equal"
    elif losses[1] < 0:
        comparison = "better"
    elif losses[0] > 0:
        comparison = "worse"
    if rule.requirement == "better_by":
        passed = comparison == "better" and sign * excess.value <= 0
        failed = comparison in ("worse", "equal") or excesses[0] > 0
    else:
        passed, failed = comparison == "equal" or excesses[1] <= 0, excesses[0] > 0
    outcome: Outcome = "passed" if passed else "failed" if failed else "undecided"
    values = (
        f"{rule.metric.label} {_text(rule, new.value)} is {_how(rule, plain, comparison)} the champion's "
        f"{_text(rule, old.value)}: "
    )
    measured = Interval(plain.value, plain.low, plain.high) if plain.is_known else Interval(plain.value)
    sentence = values + _why(rule, outcome, comparison, images)
    return Verdict(rule, outcome, sentence, _of(new), _of(old), measured, comparison)


def undecided(verdict: Verdict, pair: Pair, *, images: int, most: int) -> Verdict:
    """Return an undecided verdict for good: the sentence says that the champion stays and what to do."""
    value, _, high = verdict.difference or Interval(0.0)
    difference = f"{value:.3g}" + (", of which no spread was measured," if high is None else f" ± {high - value:.2g}")
    more = f"raise promote.max_images to {2 * images:,} or more"
    if _reference_dominates(pair):
        more = "more held-out images can decide, and more generated ones hardly can"
    sentence = (
        f"{verdict.rule.metric.label} is undecided after {images:,} images: the difference "
        f"{difference} may be chance, so the champion stays; {more} "
        f"(promote.max_images is {most:,})"
    )
    return replace(verdict, sentence=sentence)


def without_champion(rule: Rule) -> Verdict:
    """Return the verdict of a rule that compares, about a first version."""
    return Verdict(rule, "no champion", f"{rule}: there is no champion to compare with")


def not_judged(found: Verdict, reason: str) -> Verdict:
    """Return the verdict of a rule whose metric must not decide, with the reason, beside what it would have said."""
    sentence = f"{found.rule}: not judged, because {reason}"
    if found.candidate is None:
        return Verdict(found.rule, "unfit", sentence)
    return replace(
        found,
        outcome="unfit",
        otherwise=found.outcome,
        sentence=f"{sentence.removesuffix('.')}; for a person: {found.sentence}",
    )


def missing(rule: Rule, value: Any) -> Verdict:
    """Return the failure of a rule whose metric was not measured or is not finite."""
    advice = _COST.get(rule.metric.group)
    found = "was not measured" if value is None else f"is {value}, expected a finite number"
    sentence = f"{rule.metric.label} ({rule.figure}) {found}, so the rule fails: {rule}"
    return Verdict(rule, "failed", sentence + (f"; {advice}" if advice else ""))


def finite(record: Mapping[str, Any], name: str) -> float | None:
    """Return a metric of a record; None if it is missing or not finite."""
    value = record.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _interval(record: Mapping[str, Any], name: str, value: float) -> Interval:
    ends = (record.get("interval") or {}).get(name) or {}
    low, high = finite(ends, "low"), finite(ends, "high")
    return Interval(value) if low is None or high is None else Interval(value, low, high)


def _of(measured: Measured) -> Interval:
    known = math.isfinite(measured.low) and math.isfinite(measured.high)
    return Interval(measured.value, measured.low, measured.high) if known else Interval(measured.value)


class _Bounds(NamedTuple):
    value: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        return math.isfinite(self.low)


def _bounds(rule: Rule, a: Measured, b: Measured, pair: Pair, *, z: float, images: int) -> _Bounds:
    """Return a - b with z standard errors on both sides.

    Without influences, or with such that show no spread, the error is that of two independent sets, from half the width
    of their intervals. If these have no width, too, a share counts as that of so many independent `images`, and the
    error of another metric is infinite, but for equal values.
    """
    found = difference(a, b, paired=pair.paired)
    value = a.value - b.value if found is None else found.value
    error = 0.0 if found is None else found.standard_error
    if error == 0 and (value != 0 or found is None):
        error = math.hypot(*((each.high - each.low) / 2 / Z for each in (a, b)))
    if error == 0 and value != 0:
        is_share = rule.metric.unit.startswith("share") and all(0 <= each.value <= 1 for each in (a, b))
        error = math.hypot(*(_error_of_share(each.value, images) for each in (a, b))) if is_share else math.inf
    return _Bounds(value, value - z * error, value + z * error)


def _error_of_share(share: float, images: int) -> float:
    low, high = share_interval(share * images, (1 - share) * images)
    return (high - low) / 2 / Z


def _reference_dominates(pair: Pair) -> bool:
    """Return whether the held-out images cause most of the variance of the difference."""
    new, old = pair.candidate, pair.champion
    if new is None or old is None:
        return False
    whole = difference(new, old, paired=pair.paired)
    if whole is None or new.by_reference is None or old.by_reference is None:
        return False
    differing = new.by_reference - old.by_reference
    return float(differing.var(ddof=1)) / len(differing) > whole.standard_error**2 / 2


def _how(rule: Rule, found: _Bounds, comparison: Comparison) -> str:
    if comparison == "equal":
        return "equal to"
    gain = -found.value if rule.metric.better == "lower" else found.value
    chance = f" ± {_text(rule, (found.high - found.low) / 2)}" if found.is_known else ", without any measured spread,"
    return f"{_text(rule, abs(gain))}{chance} {'better' if gain > 0 else 'worse'} than"


def _why(rule: Rule, outcome: Outcome, comparison: Comparison, images: int) -> str:
    margin = f"{rule.value * 100:g}%"
    if outcome == "undecided":
        return f"undecided after {images:,} images"
    if rule.requirement == "worse_by_at_most":
        return f"{'not ' if outcome == 'passed' else ''}worse by more than {margin}"
    if outcome == "passed":
        return f"better, and the required {margin} are reached"
    return "not better" if comparison in ("worse", "equal") else f"the required {margin} are out of reach"


def _of_group(rule: Rule, interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return _text(rule, interval.value)
    return f"{_text(rule, interval.value)} ({_text(rule, interval.low)} to {_text(rule, interval.high)})"


def _text(rule: Rule, value: float) -> str:
    return f"{value:.2%}" if rule.metric.group == "copies" else f"{value:.4g}"
