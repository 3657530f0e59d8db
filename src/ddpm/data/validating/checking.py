"""Check prepared data: count all files, and let Great Expectations judge the rules on all of them or on a sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddpm.compute.executors import Crew
from ddpm.data.reading.dataset import Facts
from ddpm.data.validating.counting import Counted, count
from ddpm.data.validating.expectations import check, check_counted
from ddpm.data.validating.rules import NAMED_ROWS, Outcome, Rule
from ddpm.data.validating.sample import sampled
from ddpm.data.validating.shown_files import Shown, read_shown
from ddpm.data.validating.tables import array_table, class_table, tables_of, with_same_as_in_train


@dataclass(frozen=True)
class Checked:
    """The result of a check."""

    outcomes: list[Outcome]
    counted: Counted
    shown: Shown
    sample: int | None
    """Number of files that Great Expectations checked; None: all."""


def check_prepared(
    prepared: Path, rules: Sequence[Rule], *, facts: Facts, sample_rows: int, crew: Crew, scratch: Path
) -> Checked:
    """Return the outcome of every rule, in order, with the counters and pictures for the reports.

    Great Expectations gets at most `sample_rows` files; the outcomes do not depend on it. `scratch` is a folder that
    all workers of the crew see. Raises UserError if the manifest is missing or damaged.
    """
    shown = read_shown(prepared, facts)
    counted = count(
        prepared,
        rules,
        crew=crew,
        scratch=scratch,
        sha256=shown.rejected_sha256,
        per_reason=NAMED_ROWS + len(shown.files),
    )
    is_whole = counted.rows["files"] <= sample_rows
    tables = tables_of(sampled(prepared, sample_rows, crew=crew))
    tables["arrays"] = array_table(prepared, counted.rows)
    tables["classes"] = class_table(counted, facts.classes)
    outcomes = check(rules, with_same_as_in_train(tables)) if is_whole else check_counted(rules, counted, tables)
    return Checked(outcomes, counted, shown, None if is_whole else sample_rows)
