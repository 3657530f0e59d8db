"""DVC stage `validate`: check the prepared data against the limits in params.yaml; a failed check ends the pipeline."""

import tempfile
from pathlib import Path

from ddpm.compute.cores import cores
from ddpm.compute.executors import Crew
from ddpm.data.reading.dataset import read_facts
from ddpm.data.validating import data_docs
from ddpm.data.validating.checking import check_prepared
from ddpm.data.validating.rules import failure, rules
from ddpm.data.validating.validation_report import write_report
from ddpm.errors import UserError
from ddpm.files import write_json
from ddpm.stages.stage import Stage, execute


def main(stage: Stage) -> None:
    paths, limits, runtime = stage.paths, stage.params.validate, stage.params.runtime
    facts = read_facts(paths.prepared)
    with tempfile.TemporaryDirectory(dir=paths.prepared.parent, prefix=".validate-", suffix=".part") as folder:
        scratch = Path(folder)
        (scratch / ".gitignore").write_text("*\n")  # so that git ignores what a killed run leaves
        with Crew(workers=runtime.workers or cores(), cluster=runtime.cluster, threads=False, scratch=scratch) as crew:
            checked = check_prepared(
                paths.prepared,
                rules(facts, limits),
                facts=facts,
                sample_rows=limits.sample_rows,
                crew=crew,
                scratch=scratch,
            )
    outcomes = checked.outcomes
    data_docs.write(paths.docs, checked, facts=facts, limits=limits, prepared=paths.prepared)
    data_docs.write_run(paths.docs)
    write_report(paths.report, checked, facts=facts)
    page = paths.docs / data_docs.INDEX
    if not all(outcome.passed for outcome in outcomes):
        raise UserError(f"{failure(outcomes, show=5)}; see {page} for all results and pictures")
    # Later stages depend on this file. It does not contain the limits, so a new limit does not rerun training.
    write_json(paths.passed, {"content_hash": facts.content_hash})
    print(f"{len(outcomes)} expectations passed; {page} shows them and pictures of the data")


if __name__ == "__main__":
    execute(main, "prepared", "report", "docs", "passed")
