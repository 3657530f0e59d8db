"""The rules of promotion: section `promote` of params.yaml."""

from collections.abc import Sequence
from typing import Literal

from ddpm.measuring.metric_catalogue import METRICS, Metric
from ddpm.settings import require, require_at_least, require_positive, require_share, section

FIGURES: dict[str, Metric] = {
    metric.name: metric
    for metric in METRICS
    if metric.group in ("quality", "copies", "likelihood") or metric.name == "seconds_per_image"
}
"""The metrics that a rule may name."""

RELATIVE = ("better_by", "worse_by_at_most")
"""Requirements that compare the candidate with the champion; the others need the candidate alone."""
REQUIREMENTS = (*RELATIVE, "at_most", "at_least", "floors_at_most")
MOST_IMAGES = 1_000_000
"""Largest `max_images`."""
MOST_DAYS = 3650
"""Largest `approval_days`."""


@section
class Rule:
    """One rule: a metric and exactly one requirement."""

    figure: str
    """Name of the metric, as in reports/metrics.json or reports/bits_per_dim.json, or `seconds_per_image`."""
    better_by: float | None = None
    """The candidate is better than the champion beyond chance, and by at least this share of the champion's value."""
    worse_by_at_most: float | None = None
    """The candidate is beyond doubt not worse than the champion by more than this share of the champion's value."""
    at_most: float | None = None
    """Largest value of the candidate."""
    at_least: float | None = None
    """Smallest value of the candidate."""
    floors_at_most: float | None = None
    """Largest value of the candidate as a multiple of the floor, the same metric of real images."""

    def __post_init__(self) -> None:
        require(
            self.figure in FIGURES,
            f"figure is {self.figure!r}, expected one of {', '.join(FIGURES)}",
        )
        given = [name for name in REQUIREMENTS if getattr(self, name) is not None]
        require(
            len(given) == 1,
            f"the rule for {self.figure} has {' and '.join(given) or 'no requirement'}, expected exactly one of "
            f"{', '.join(REQUIREMENTS)}",
        )
        for name, check in (("better_by", require_share), ("floors_at_most", require_positive)):
            if name in given:
                check(self, name)
        require(self.better_by is None or self.better_by < 1, "better_by is 1, which no candidate reaches; lower it")
        for name in {"at_most", "at_least"} & set(given) if self.metric.unit.startswith("share") else ():
            require_share(self, name)
        if "worse_by_at_most" in given:
            require_at_least(0, self, "worse_by_at_most")
        require(
            not self.is_relative or self.metric.better is not None,
            f"{self.requirement} needs to know which values of {self.figure} are better, and neither lower nor higher "
            "ones are; use at_most or at_least",
        )
        require(
            self.floors_at_most is None or (self.metric.has_floor and self.metric.better == "lower"),
            f"floors_at_most needs a metric that real images have, too, and of which lower values are better, and "
            f"{self.figure} is none; use at_most or at_least",
        )

    @property
    def metric(self) -> Metric:
        return FIGURES[self.figure]

    @property
    def requirement(self) -> str:
        """The name of the requirement."""
        return next(name for name in REQUIREMENTS if getattr(self, name) is not None)

    @property
    def value(self) -> float:
        """The value of the requirement."""
        return float(getattr(self, self.requirement))

    @property
    def is_relative(self) -> bool:
        """Whether the rule compares the candidate with the champion."""
        return self.requirement in RELATIVE

    def __str__(self) -> str:
        """Return the rule in words, such as "FID better by 2%"."""
        return f"{self.metric.label} {self._requirement_text()}"

    def _requirement_text(self) -> str:
        if self.requirement == "floors_at_most":
            return f"at most {self.value:g} times the floor"
        words = self.requirement.replace("_", " ")
        as_share = self.is_relative or self.metric.group == "copies"
        return f"{words} {self.value * 100:g}%" if as_share else f"{words} {self.value:g}"


@section
class Promote:
    """The rules by which a candidate becomes champion."""

    name: str
    """Name of the registered model."""
    rules: tuple[Rule, ...]
    """All must hold. Each has a `figure`, which is a metric, and one requirement. Against the champion: better_by (the
    candidate is better beyond chance, and by at least this share of the champion's value) or worse_by_at_most (it is
    beyond doubt not worse by more than this share). Without the champion: at_most, at_least, or floors_at_most (times
    the same metric of real images)."""
    max_images: int
    """Images drawn of each of candidate and champion at most, while a comparison is undecided: their number begins with
    that of the evaluation and doubles up to this. Still undecided, the champion stays."""
    auto_rollback: bool
    """true: where a served champion crosses a limit of section `watch`, the champion before it returns."""
    approval: Literal["auto", "ask"]
    """auto: the gate decides; ask: a person decides about a better candidate (`ddpm approve`, or the deployment
    `approve` in Prefect)."""
    approval_days: float
    """Days that a candidate waits for a person at most; after them it counts as rejected."""

    def __post_init__(self) -> None:
        require(
            self.name.strip() != "" and not {"/", ":"} & set(self.name),
            f"name is {self.name!r}, expected a name without / and :",
        )
        require(
            len(self.rules) > 0,
            "rules is [], by which every candidate would be promoted; give at least one rule, such as "
            "{figure: fid, better_by: 0.02}",
        )
        for k, rule in enumerate(self.rules):
            same = [(other.figure, other.requirement) for other in self.rules[:k]]
            require(
                (rule.figure, rule.requirement) not in same,
                f"rules has two rules for {rule.figure} with {rule.requirement}; remove one of them",
            )
        require(
            1 <= self.max_images <= MOST_IMAGES,
            f"max_images is {self.max_images}, expected 1 to {MOST_IMAGES:,}, which are all in memory",
        )
        require_positive(self, "approval_days")
        require(
            self.approval_days <= MOST_DAYS,
            f"approval_days is {self.approval_days:g}, expected at most {MOST_DAYS:,}",
        )

    @property
    def compares(self) -> bool:
        """Whether any rule compares the candidate with the champion."""
        return any(rule.is_relative for rule in self.rules)

    def looks(self, first: int) -> tuple[int, ...]:
        """Return the numbers of images of each model after which the gate looks: `first`, doubled to `max_images`."""
        numbers = [first]
        while 2 * numbers[-1] <= self.max_images:
            numbers.append(2 * numbers[-1])
        return tuple(numbers)

    @property
    def main(self) -> Metric:
        """The metric that one line about a version shows: that of the first rule."""
        return self.rules[0].metric


def in_words(rules: Sequence[Rule]) -> str:
    """Return the rules in words, separated by semicolons."""
    return "; ".join(map(str, rules))
