"""Check rules with Great Expectations."""

import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from ddpm.data.validating.rules import KEYS, Outcome, Rule

if TYPE_CHECKING:
    import pandas as pd

NAMED_ROWS = 20
"""Largest number of rows that are named for each expectation."""


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
            outcome = _outcome(here[config.meta["rule"]], result, key)
            outcomes[outcome.rule.name] = outcome
    return [outcomes[rule.name] for rule in rules]


def _outcome(rule: Rule, result: Any, key: str) -> Outcome:
    values = result.result
    if not values:  # Great Expectations returns no result if a check raised an exception
        raise RuntimeError(f"{rule.name!r} could not be checked: {result.exception_info}")
    rows = [
        f"{row[key]} ({', '.join(f'{column} {_short(value)}' for column, value in row.items() if column != key)})"
        for row in values.get("partial_unexpected_index_list") or []
    ]
    observed = values["observed_value"] if rule.check == "row_count" else values["unexpected_count"]
    return Outcome(rule, bool(result.success), int(observed), tuple(rows))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, Real) and not isinstance(value, int) else str(value)


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
