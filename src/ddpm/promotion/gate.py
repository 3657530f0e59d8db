"""May this model take over? A pure function of figures: no server, no files."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddpm.errors import UserError
from ddpm.promotion.settings import Promote

MEMORIZED = ("memorized_share", "memorized_share_features", "memorized_share_shifted", "memorized_share_half")
"""Ways of being a copy."""


@dataclass(frozen=True)
class Decision:
    """Whether, and why: one sentence for each thing that was looked at."""

    promote: bool
    reasons: tuple[str, ...]


def decide(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, rule: Promote) -> Decision:
    """Holds the candidate to the rule, and to the champion where there is one.

    Both are records as in reports/metrics.json: figures, `floor` and `protocol`. Lower is better for `fid` and
    for `kid`. Promoted is what has finite figures, is at most `max_over_floor` times the floor, in no way has
    more copies of training images than `max_memorized_share`, and is better than the champion by more than
    `min_improvement` of the champion's figure. All of it is looked at, so that the reasons are complete.

    Raises UserError if the two were not measured by the same protocol.
    """
    if champion is not None and (differing := differences(candidate, champion)):
        raise UserError(
            f"candidate and champion were measured differently ({'; '.join(differing)}), so their figures do not "
            "compare; measure the champion again by the candidate's protocol"
        )
    checks = [_near_floor(candidate, rule), _few_copies(candidate, rule)]
    if champion is None:
        checks.append((True, "there is no champion to be better than"))
    else:
        checks.append(_better(candidate, champion, rule))
    return Decision(all(passed for passed, _ in checks), tuple(reason for _, reason in checks))


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What differs in how two records were measured, as `key: value in a, value in b`.

    How the images were drawn (`drawing`) may differ: each model is judged as it is used, by its own recipe.
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
    figure, floor = _finite(candidate, name), _finite(candidate.get("floor") or {}, name)
    if figure is None:
        return False, f"{name} is {candidate.get(name)}, expected a finite number"
    if floor is None:
        return False, f"the floor of {name} is not a finite number, so nothing can be held to it"
    called = f"the floor {floor:.4g}"
    if floor <= 0:
        # KID is unbiased, so that the floor, whose true value is zero, is as often below zero as above.
        floor = _finite(candidate["floor"], f"{name}_std") or 0.0
        called = f"the floor's spread {floor:.4g} (the floor itself is not above zero)"
    limit = rule.max_over_floor * floor
    relation = "within" if figure <= limit else "above"
    return figure <= limit, f"{name} {figure:.4g} is {relation} {rule.max_over_floor:g} times {called}"


def _few_copies(candidate: Mapping[str, Any], rule: Promote) -> _Check:
    """The largest share counts: each is measured against its own quantile of real images, so they compare."""
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
        return False, f"without a finite {name} it cannot be better than the champion"
    if old is None:
        return True, f"the champion's {name} is {champion.get(name)}, no finite number to be better than"
    gain, needed = old - new, rule.min_improvement * abs(old)
    passed = gain > 0 and gain >= needed
    if gain > 0:
        asked = f"{needed:.3g} ({rule.min_improvement:.1%}) is asked for"
        reason = f"{name} {new:.4g} is {gain:.3g} better than the champion's {old:.4g}: "
        reason += f"enough, since {asked}" if passed else f"not enough, since {asked}"
    elif gain < 0:
        reason = f"{name} {new:.4g} is {-gain:.3g} worse than the champion's {old:.4g}"
    else:
        reason = f"{name} {new:.4g} is the champion's own"
    spread = _finite(candidate, f"{name}_spread") or _finite(candidate, f"{name}_std")
    if spread is not None and 0 < abs(gain) <= spread:
        reason += f"; the difference is within the spread of the measurement, {spread:.3g}, and may be chance"
    return passed, reason


def _finite(record: Mapping[str, Any], name: str) -> float | None:
    value = record.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
