"""DVC stage `validate`: check the prepared data against the limits in params.yaml; a failed check ends the pipeline."""

from ddpm.data.previews import read_previews
from ddpm.data.reading.dataset import read_facts
from ddpm.data.validating import data_docs
from ddpm.data.validating.expectations import check
from ddpm.data.validating.rules import failure, rules
from ddpm.data.validating.tables import read_tables
from ddpm.data.validating.validation_report import write_report
from ddpm.errors import UserError
from ddpm.files import write_json
from ddpm.stages.stage import Stage, execute


def main(stage: Stage) -> None:
    paths, limits = stage.paths, stage.params.validate
    facts = read_facts(paths.prepared)
    tables = read_tables(paths.prepared, facts)
    outcomes = check(rules(facts, limits), tables)
    data_docs.write(
        paths.docs,
        outcomes,
        facts=facts,
        tables=tables,
        previews=read_previews(paths.prepared),
        limits=limits,
        prepared=paths.prepared,
    )
    data_docs.write_run(paths.docs)
    write_report(paths.report, facts=facts, tables=tables, outcomes=outcomes)
    page = paths.docs / data_docs.INDEX
    if not all(outcome.passed for outcome in outcomes):
        raise UserError(f"{failure(outcomes, show=5)}; see {page} for all results and pictures")
    # Later stages depend on this file. It does not contain the limits, so a new limit does not rerun training.
    write_json(paths.passed, {"content_hash": facts.content_hash})
    print(f"{len(outcomes)} expectations passed; {page} shows them and pictures of the data")


if __name__ == "__main__":
    execute(main, "prepared", "report", "docs", "passed")
