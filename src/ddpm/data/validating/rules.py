"""The rules for prepared data: for each its table, its check, its limit and its sentence.

The rules are independent of Great Expectations, which checks them (data/validating/expectations.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from ddpm.data.manifest import PREPARE_AGAIN
from ddpm.data.reading.dataset import Facts
from ddpm.data.validating.settings import Validate

KEYS = {"classes": "label", "arrays": "split", "counters": "counted"}
"""By table: the column that identifies a row for a reader, if it is not `path`."""
COUNTED = ("files", "images", "train", "test")
"""Tables whose rows are files, which are counted part by part."""
SAME_AS_IN_TRAIN = "same_as_in_train"
"""Column of table `test`: the path of a training image with the same prepared pixels."""
NAMED_ROWS = 20
"""Largest number of rows that are named for each rule."""

Check = Literal["row_count", "between", "in_set", "not_null", "null", "unique_together"]


@dataclass(frozen=True)
class Rule:
    """One expectation."""

    name: str
    sentence: str
    """The expectation in words, with its limit."""
    remedy: str
    """What a person can do where it is broken, with the setting of the limit if there is one."""
    table: str
    """A name in tables.py."""
    check: Check
    columns: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    values: tuple[Any, ...] = ()
    exceptions: int = 0
    """Number of rows that may break the rule."""

    @property
    def is_countable(self) -> bool:
        """Whether each row breaks the rule or not by its own values in the manifest."""
        return (
            self.table in COUNTED
            and self.check in ("between", "in_set", "not_null", "null")
            and self.columns != (SAME_AS_IN_TRAIN,)
        )


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
            remedy=PREPARE_AGAIN,
            table="files",
            check="row_count",
            low=facts.found,
            high=facts.found,
        ),
        Rule(
            name="every file is kept or rejected",
            sentence="status is kept or rejected",
            remedy=PREPARE_AGAIN,
            table="files",
            check="in_set",
            columns=("status",),
            values=("kept", "rejected"),
        ),
        Rule(
            name="few files are rejected",
            sentence=f"at most {limits.max_rejected_share:.1%} of {facts.found} files are rejected",
            remedy="repair or remove them, or raise validate.max_rejected_share",
            table="files",
            check="null",
            columns=("reason",),
            exceptions=int(limits.max_rejected_share * facts.found + 1e-9),
        ),
        Rule(
            name="enough training images",
            sentence=f"at least {limits.min_train_images} images are in train",
            remedy="add images, or lower validate.min_train_images",
            table="train",
            check="row_count",
            low=limits.min_train_images,
        ),
        Rule(
            name="enough test images",
            sentence=f"at least {limits.min_test_images} images are in test",
            remedy="add images, raise data.test_fraction, or lower validate.min_test_images",
            table="test",
            check="row_count",
            low=limits.min_test_images,
        ),
        Rule(
            name="no image of test is in train",
            sentence=f"at most {limits.max_test_duplicates} images of test have the pixels of a training image",
            remedy="remove them from one of the two, or raise validate.max_test_duplicates",
            table="test",
            check="null",
            columns=(SAME_AS_IN_TRAIN,),
            exceptions=limits.max_test_duplicates,
        ),
        Rule(
            name="images are not enlarged",
            sentence=f"at most {limits.max_upscaled_share:.1%} of the images have a side below {facts.size} pixels",
            remedy="remove them, lower data.size, or raise validate.max_upscaled_share",
            table="images",
            check="between",
            columns=("original_shorter_side",),
            low=facts.size,
            exceptions=int(limits.max_upscaled_share * facts.kept + 1e-9),
        ),
        Rule(
            name="brightness is in range",
            sentence=f"the mean of every image is between {low} and {high}",
            remedy="remove these images, or widen validate.brightness",
            table="images",
            check="between",
            columns=("mean",),
            low=low,
            high=high,
        ),
        Rule(
            name="every image has its hashes",
            sentence="sha256 is known of every image",
            remedy=PREPARE_AGAIN,
            table="images",
            check="not_null",
            columns=("sha256",),
        ),
        Rule(
            name="every image has its own place",
            sentence="no two images have the same split and index",
            remedy=PREPARE_AGAIN,
            table="images",
            check="unique_together",
            columns=("split", "index"),
        ),
        *(
            Rule(
                name=f"arrays are as stated: {column}",
                sentence=f"{column} of the arrays is {value} in train and test",
                remedy=PREPARE_AGAIN,
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
    captions = () if facts.captions is None else _caption_rules(facts, limits)
    if not facts.classes:
        return (*always, *captions)
    return (
        *always,
        *captions,
        Rule(
            name="every image has a known label",
            sentence=f"label is one of {len(facts.classes)} classes",
            remedy=PREPARE_AGAIN,
            table="images",
            check="in_set",
            columns=("label",),
            values=facts.classes,
        ),
        Rule(
            name="classes are balanced",
            sentence=f"every class has at least {limits.min_class_share:.0%} of an equal share of train",
            remedy="add images of these classes, merge or remove them, or lower validate.min_class_share",
            table="classes",
            check="between",
            columns=("share_of_equal",),
            low=limits.min_class_share,
        ),
    )


def _caption_rules(facts: Facts, limits: Validate) -> tuple[Rule, ...]:
    return (
        Rule(
            name="images have captions",
            sentence=f"at most {limits.max_uncaptioned_share:.1%} of the images have no caption",
            remedy="write captions for them, save them as UTF-8, or raise validate.max_uncaptioned_share",
            table="images",
            check="null",
            columns=("no_caption",),
            exceptions=int(limits.max_uncaptioned_share * facts.kept + 1e-9),
        ),
        Rule(
            name="captions are not too long",
            sentence=f"every caption has at most {limits.max_caption_characters} characters",
            remedy="shorten them, or raise validate.max_caption_characters",
            table="images",
            check="between",
            columns=("caption_characters",),
            high=limits.max_caption_characters,
        ),
    )


def named(rule: Rule, row: Mapping[str, Any]) -> str:
    """Return a row that breaks the rule as text: what identifies it, and its values in the rule's columns."""
    values = ", ".join(f"{column.removeprefix('no_')} {_short(row[column])}" for column in rule.columns)
    return f"{row[KEYS.get(rule.table, 'path')]} ({values})"


def _short(value: Any) -> str:
    if not isinstance(value, Real) or isinstance(value, int):
        return str(value)
    number = float(value)
    return f"{number:.0f}" if number.is_integer() else f"{number:.4g}"


def observed(outcome: Outcome) -> str:
    """Return what was observed in words, such as "3 rows break it"; for a row count, the number of rows."""
    n, rows = outcome.observed, "row" if outcome.observed == 1 else "rows"
    if outcome.rule.check == "row_count":
        return f"{n} {rows}"
    return f"{n} {rows} {'breaks' if n == 1 else 'break'} it"


def failure(outcomes: Sequence[Outcome], *, show: int) -> str:
    """Return one sentence that names every broken rule, the first `show` rows of each, and what to do."""
    broken = []
    for outcome in (outcome for outcome in outcomes if not outcome.passed):
        rule = outcome.rule
        seen = observed(outcome)
        rows = f": {'; '.join(outcome.rows[:show])}" if outcome.rows else ""
        more = " …" if len(outcome.rows) > show else ""
        broken.append(f"expected: {rule.name} ({rule.sentence}), but {seen}{rows}{more}; {rule.remedy}")
    return " | ".join(broken)
