"""The rule that decides whether a candidate becomes champion: a pure function of metrics, without server or files."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddpm.errors import UserError
from ddpm.measuring.metric_catalogue import JUDGED, SPREAD
from ddpm.promotion.settings import Promote

MEMORIZED = tuple(metric.name for metric in JUDGED if metric.group == "copies")
"""Metrics of copies of training images, one for each way of comparing."""


@dataclass(frozen=True)
class Decision:
    """Whether the candidate becomes champion, and one sentence with the reason for each check."""

    promote: bool
    reasons: tuple[str, ...]


def decide(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, rule: Promote) -> Decision:
    """Check the candidate by the rule, and compare it with the champion if there is one.

    Both are records as in reports/metrics.json: metrics, `floor` and `protocol`. Lower is better for `fid` and `kid`.
    A candidate is promoted if its metrics are finite, its metric is at most `max_over_floor` times the floor, every
    share of copies of training images is at most `max_memorized_share`, and it is better than the champion by at least
    `min_improvement` of the champion's metric. All checks are made, so that the reasons are complete. `warnings` follow
    the reasons; they do not change the decision.

    Raise UserError if the two were not measured by the same protocol.
    """
    if champion is not None and (differing := differences(candidate, champion)):
        raise UserError(
            f"candidate and champion were measured differently ({'; '.join(differing)}), so their metrics do not "
            "compare; measure the champion again by the candidate's protocol"
        )
    checks = [_near_floor(candidate, rule), _few_copies(candidate, rule)]
    if champion is None:
        checks.append((True, "there is no champion to compare with"))
    else:
        checks.append(_better(candidate, champion, rule))
    reasons = [reason for _, reason in checks] + warnings(candidate, rule)
    return Decision(all(passed for passed, _ in checks), tuple(reasons))


def warnings(record: Mapping[str, Any], rule: Promote) -> list[str]:
    """Return what too few images leave open: the spread of the metric, and the share of copies.

    If none of n images is a copy, the share of copies is below 3 / n with 95% confidence (the rule of three), so fewer
    than 3 / `max_memorized_share` images cannot show that the share is within the limit.
    """
    found = []
    n, spread, limit = record["protocol"].get("n"), record.get("spread") or {}, rule.max_memorized_share
    if rule.metric == "fid" and spread.get("blocks", 0) > 1 and spread.get("reason"):
        found.append(f"warning: the spread of fid is unknown, because {spread['reason']}")
    if n is not None and limit > 0 and n * limit < 3:
        found.append(
            f"warning: {n:,} images are too few to show that the share of copies is within {limit:.2%}: even if none "
            f"is a copy, it may be {min(1.0, 3 / n):.0%}; set sample.images to at least {math.ceil(3 / limit):,}"
        )
    return found


def most_copies(record: Mapping[str, Any]) -> float | None:
    """Return the largest share of copies in a record, in 0..1; None if it has none that is finite."""
    return max((share for name in MEMORIZED if (share := _finite(record, name)) is not None), default=None)


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return the differences between the protocols of two records, as `key: value in a and value in b`.

    The settings of sampling (`drawing`) may differ, because each model is measured by its own recipe.
    """
    one, other = a["protocol"], b["protocol"]
    return [
        f"{key}: {one.get(key)} and {other.get(key)}"
        for key in sorted((one.keys() | other.keys()) - {"drawing"})
        if one.get(key) != other.get(key)
    ]


_Check = tuple[bool, str]


def _near_floor(candidate: Mapping[str, Any], rule: Promote) -> _Check:
    name = rule.metric
    measured, floor = _finite(candidate, name), _finite(candidate.get("floor") or {}, name)
    if measured is None:
        return False, f"{name} is {candidate.get(name)}, expected a finite number"
    if floor is None:
        return False, f"the floor of {name} is {(candidate.get('floor') or {}).get(name)}, expected a finite number"
    called = f"the floor {floor:.4g}"
    if floor <= 0:
        # KID is unbiased and the floor's true value is zero, so its estimate may be negative.
        floor = _finite(candidate["floor"], f"{name}{SPREAD}") or 0.0
        called = f"the floor's standard deviation {floor:.4g} (the floor itself is not positive)"
    limit = rule.max_over_floor * floor
    relation = "within" if measured <= limit else "above"
    n = candidate["protocol"].get("n")
    number = "" if n is None else f", measured on {n:,} images"
    return measured <= limit, f"{name} {measured:.4g} is {relation} {rule.max_over_floor:g} times {called}{number}"


def _few_copies(candidate: Mapping[str, Any], rule: Promote) -> _Check:
    """Check the largest share. Shares compare, because each has its own threshold, a quantile of real images."""
    shares = {}
    for name in MEMORIZED:
        share = _finite(candidate, name)
        if share is None:
            return False, f"{name} is {candidate.get(name)}, expected a finite number"
        shares[name] = share
    name = max(shares, key=lambda name: shares[name])
    relation = "within" if shares[name] <= rule.max_memorized_share else "above"
    return (
        shares[name] <= rule.max_memorized_share,
        f"{name} {shares[name]:.2%} is {relation} the limit of {rule.max_memorized_share:.2%}",
    )


def _better(candidate: Mapping[str, Any], champion: Mapping[str, Any], rule: Promote) -> _Check:
    name = rule.metric
    new, old = _finite(candidate, name), _finite(champion, name)
    if new is None:
        return False, f"{name} is not finite, so it cannot be better than the champion's"
    if old is None:
        return True, f"the champion's {name} is {champion.get(name)}, which is not finite, so the candidate is better"
    gain, needed = old - new, rule.min_improvement * abs(old)
    passed = gain > 0 and gain >= needed
    if gain > 0:
        enough = "enough" if passed else "not enough"
        reason = f"{name} {new:.4g} is {gain:.3g} better than the champion's {old:.4g}: {enough}, "
        reason += f"the required improvement is {needed:.3g} ({rule.min_improvement:.1%})"
    elif gain < 0:
        reason = f"{name} {new:.4g} is {-gain:.3g} worse than the champion's {old:.4g}"
    else:
        reason = f"{name} {new:.4g} equals the champion's"
    spread = _finite(candidate, f"{name}{SPREAD}")
    if spread is not None and 0 < abs(gain) <= spread:
        reason += f" (the difference is within the spread of the measurement, {spread:.3g}, and may be chance)"
    return passed, reason


def _finite(record: Mapping[str, Any], name: str) -> float | None:
    value = record.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
