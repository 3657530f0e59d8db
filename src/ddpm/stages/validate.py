"""Great Expectations holds the prepared data to the limits in params.yaml; a broken one stops the pipeline."""

import argparse
from pathlib import Path

from ddpm.data.reading.dataset import read_facts
from ddpm.data.validating import data_docs
from ddpm.data.validating.expectations import check
from ddpm.data.validating.rules import failure, rules
from ddpm.data.validating.tables import read_tables
from ddpm.data.validating.validation_report import write_report
from ddpm.errors import UserError
from ddpm.files import write_json
from ddpm.params import load as load_params
from ddpm.pipeline.workspace import run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("prepared", "report", "docs", "passed"):
        parser.add_argument(f"--{option}", type=Path, required=True)
    arguments = parser.parse_args()
    params = load_params()
    facts = read_facts(arguments.prepared)
    tables = read_tables(arguments.prepared, facts)
    outcomes = check(rules(facts, params.validate), tables)
    data_docs.write(arguments.docs, outcomes, run_name=facts.content_hash[:12])
    write_report(arguments.report, facts=facts, tables=tables, outcomes=outcomes)
    if not all(outcome.passed for outcome in outcomes):
        raise UserError(f"{failure(outcomes, show=5)}; all of it is in {arguments.docs / 'index.html'}")
    # What later stages wait for. It does not change with the limits, so a new limit trains nothing anew.
    write_json(arguments.passed, {"content_hash": facts.content_hash})
    print(f"{len(outcomes)} expectations hold; {arguments.docs / 'index.html'} shows them")


if __name__ == "__main__":
    run_stage(main)
