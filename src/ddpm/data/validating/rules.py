"""The rules for prepared data: for each its table, its check, its limit and its sentence.

The rules are independent of Great Expectations, which checks them (data/validating/expectations.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ddpm.data.reading.dataset import Facts
from ddpm.data.validating.settings import Validate

KEYS = {"classes": "label", "arrays": "split"}
"""By table: the column that identifies a row for a reader, if it is not `path`."""

Check = Literal["row_count", "between", "in_set", "not_null", "null", "unique_together"]


@dataclass(frozen=True)
class Rule:
    """One expectation."""

    name: str
    sentence: str
    """The expectation in words, with its limit."""
    table: str
    """A key of tables.read_tables."""
    check: Check
    columns: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    values: tuple[Any, ...] = ()
    exceptions: int = 0
    """Number of rows that may break the rule."""


@dataclass(frozen=True)
class Outcome:
    """The result of checking a rule."""

    rule: Rule
    passed: bool
    observed: int
    """Number of rows that break the rule; for a row count, the count."""
    rows: tuple[str, ...]
    """The first rows that break the rule, as texts; also if their number is allowed."""


def rules(facts: Facts, limits: Validate) -> tuple[Rule, ...]:
    """Return the rules for a data set, by the limits in params.yaml."""
    low, high = limits.brightness
    always = (
        Rule(
            name="every file found is in the manifest",
            sentence=f"the manifest has {facts.found} rows",
            table="files",
            check="row_count",
            low=facts.found,
            high=facts.found,
        ),
        Rule(
            name="every file is kept or rejected",
            sentence="status is kept or rejected",
            table="files",
            check="in_set",
            columns=("status",),
            values=("kept", "rejected"),
        ),
        Rule(
            name="few files are rejected",
            sentence=f"at most {limits.max_rejected_share:.1%} of {facts.found} files are rejected",
            table="files",
            check="null",
            columns=("reason",),
            exceptions=int(limits.max_rejected_share * facts.found + 1e-9),
        ),
        Rule(
            name="enough training images",
            sentence=f"at least {limits.min_train_images} images are in train",
            table="train",
            check="row_count",
            low=limits.min_train_images,
        ),
        Rule(
            name="enough test images",
            sentence=f"at least {limits.min_test_images} images are in test; otherwise raise data.test_fraction "
            "or lower validate.min_test_images",
            table="test",
            check="row_count",
            low=limits.min_test_images,
        ),
        Rule(
            name="no image of test is in train",
            sentence=f"at most {limits.max_test_duplicates} images of test have the pixels of a training image",
            table="test",
            check="null",
            columns=("same_as_in_train",),
            exceptions=limits.max_test_duplicates,
        ),
        Rule(
            name="images are not enlarged",
            sentence=f"at most {limits.max_upscaled_share:.1%} of the images have a side below {facts.size} pixels",
            table="images",
            check="between",
            columns=("original_shorter_side",),
            low=facts.size,
            exceptions=int(limits.max_upscaled_share * facts.kept + 1e-9),
        ),
        Rule(
            name="brightness is in range",
            sentence=f"the mean of every image is between {low} and {high}",
            table="images",
            check="between",
            columns=("mean",),
            low=low,
            high=high,
        ),
        Rule(
            name="every image has its hashes",
            sentence="sha256 is known of every image",
            table="images",
            check="not_null",
            columns=("sha256",),
        ),
        Rule(
            name="every image has its own place",
            sentence="no two images have the same split and index",
            table="images",
            check="unique_together",
            columns=("split", "index"),
        ),
        *(
            Rule(
                name=f"arrays are as stated: {column}",
                sentence=f"{column} of the arrays is {value} in train and test",
                table="arrays",
                check="in_set",
                columns=(column,),
                values=(value,),
            )
            for column, value in (
                ("height", facts.size),
                ("width", facts.size),
                ("channels", facts.channels),
                ("dtype", "uint8"),
                ("missing_rows", 0),
            )
        ),
    )
    if not facts.classes:
        return always
    return (
        *always,
        Rule(
            name="every image has a known label",
            sentence=f"label is one of {len(facts.classes)} classes",
            table="images",
            check="in_set",
            columns=("label",),
            values=facts.classes,
        ),
        Rule(
            name="classes are balanced",
            sentence=f"every class has at least {limits.min_class_share:.0%} of an equal share of train",
            table="classes",
            check="between",
            columns=("share_of_equal",),
            low=limits.min_class_share,
        ),
    )


def failure(outcomes: Sequence[Outcome], *, show: int) -> str:
    """Return one sentence that names every broken rule and the first `show` rows of each."""
    broken = []
    for outcome in (outcome for outcome in outcomes if not outcome.passed):
        rule = outcome.rule
        seen = f"{outcome.observed} rows" + ("" if rule.check == "row_count" else " break it")
        rows = f": {'; '.join(outcome.rows[:show])}" if outcome.rows else ""
        more = " …" if len(outcome.rows) > show else ""
        broken.append(f"expected: {rule.name} ({rule.sentence}), but {seen}{rows}{more}")
    return " | ".join(broken)
