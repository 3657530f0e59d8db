"""Check rules with Great Expectations: on whole tables or, for a large set, on its counters and on a sample."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ddpm.data.validating.rules import COUNTED, KEYS, NAMED_ROWS, Outcome, Rule, named

if TYPE_CHECKING:
    import pandas as pd

    from ddpm.data.validating.counting import Counted


def check(rules: Sequence[Rule], tables: "Mapping[str, pd.DataFrame]") -> list[Outcome]:
    """Return the outcome of every rule, in order."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    source = context.data_sources.add_pandas("prepared")
    outcomes: dict[str, Outcome] = {}
    for table in dict.fromkeys(rule.table for rule in rules):
        here = {rule.name: rule for rule in rules if rule.table == table}
        frame, key = tables[table], KEYS.get(table, "path")
        suite = gx.ExpectationSuite(name=table)
        for rule in here.values():
            suite.add_expectation(_expectation(rule, rows=len(frame)))
        whole = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
        checked = whole.get_batch({"dataframe": frame}).validate(
            suite,
            result_format={
                "result_format": "SUMMARY",
                "partial_unexpected_count": NAMED_ROWS,
                "unexpected_index_column_names": [key],
            },
        )
        for result in checked.results:
            config = result.expectation_config
            assert config is not None
            outcome = _outcome(here[config.meta["rule"]], result)
            outcomes[outcome.rule.name] = outcome
    return [outcomes[rule.name] for rule in rules]


def check_counted(rules: Sequence[Rule], counted: "Counted", sample: "Mapping[str, pd.DataFrame]") -> list[Outcome]:
    """Return the outcome of every rule, in order, for a set of which Great Expectations gets only a sample of files.

    The counters are exact and decide: Great Expectations compares them with the limits. It checks the tables `arrays`
    and `classes` whole, and in the sample the rules that allow no exception; a rule passes if both agree to it.
    """
    import pandas as pd

    by_counter = [rule for rule in rules if rule.table in COUNTED]
    counters = pd.DataFrame(
        {KEYS["counters"]: ["all files"], **{rule.name: [counted.breaking[rule.name]] for rule in by_counter}}
    )
    in_sample = [rule for rule in by_counter if rule.is_countable and not rule.exceptions]
    checks = [
        *(rule for rule in rules if rule.table not in COUNTED),
        *(_of_counter(rule) for rule in by_counter),
        *(replace(rule, name=f"{rule.name}, in the sample") for rule in in_sample),
    ]
    outcomes = {outcome.rule.name: outcome for outcome in check(checks, {**sample, "counters": counters})}
    passed_in_sample = {rule.name: outcomes[f"{rule.name}, in the sample"].passed for rule in in_sample}
    return [
        Outcome(
            rule,
            outcomes[rule.name].passed and passed_in_sample.get(rule.name, True),
            counted.breaking[rule.name],
            counted.named[rule.name],
        )
        if rule.table in COUNTED
        else outcomes[rule.name]
        for rule in rules
    ]


def _of_counter(rule: Rule) -> Rule:
    """Return the rule for the counter of this rule: the number of rows, or of those that break it."""
    low, high = (rule.low, rule.high) if rule.check == "row_count" else (None, rule.exceptions)
    return replace(rule, table="counters", check="between", columns=(rule.name,), low=low, high=high, exceptions=0)


def _outcome(rule: Rule, result: Any) -> Outcome:
    values = result.result
    if not values:  # Great Expectations returns no result if a check raised an exception
        raise RuntimeError(f"{rule.name!r} could not be checked: {result.exception_info}")
    rows = [named(rule, row) for row in values.get("partial_unexpected_index_list") or []]
    observed = values["observed_value"] if rule.check == "row_count" else values["unexpected_count"]
    return Outcome(rule, bool(result.success), int(observed), tuple(rows))


def _expectation(rule: Rule, *, rows: int) -> Any:
    import great_expectations.expectations as gxe

    # Half a row of tolerance, because shares are compared as floats.
    mostly = max(0.0, 1 - (rule.exceptions + 0.5) / rows) if rows and rule.exceptions else 1.0
    meta: dict[str, Any] = {"meta": {"rule": rule.name}}
    column = rule.columns[0] if rule.columns else ""
    makers: dict[str, Callable[[], Any]] = {
        "row_count": lambda: gxe.ExpectTableRowCountToBeBetween(
            min_value=None if rule.low is None else int(rule.low),
            max_value=None if rule.high is None else int(rule.high),
            **meta,
        ),
        "between": lambda: gxe.ExpectColumnValuesToBeBetween(
            column=column, min_value=rule.low, max_value=rule.high, mostly=mostly, **meta
        ),
        "in_set": lambda: gxe.ExpectColumnValuesToBeInSet(
            column=column, value_set=list(rule.values), mostly=mostly, **meta
        ),
        "not_null": lambda: gxe.ExpectColumnValuesToNotBeNull(column=column, mostly=mostly, **meta),
        "null": lambda: gxe.ExpectColumnValuesToBeNull(column=column, mostly=mostly, **meta),
        "unique_together": lambda: gxe.ExpectCompoundColumnsToBeUnique(column_list=list(rule.columns), **meta),
    }
    return makers[rule.check]()
