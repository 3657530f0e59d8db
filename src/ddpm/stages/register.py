"""DVC stage `register`: register the model; move the champion's alias or not, and store the reasons in the version."""

import json
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

from ddpm.settings import as_dict
from ddpm.stages.stage import Stage, execute


def main(stage: Stage) -> None:
    from ddpm.data.reading.dataset import read_facts
    from ddpm.files import write_json
    from ddpm.generation.packed_model import pack
    from ddpm.measuring import fidelity
    from ddpm.measuring.record import Record
    from ddpm.promotion.judge import judge, summary
    from ddpm.reporting.decisions import decision
    from ddpm.reporting.markdown import table
    from ddpm.reporting.measurements import metrics_table
    from ddpm.reporting.run_sections import links
    from ddpm.tracking import mlflow_registry
    from ddpm.tracking.logged_model import log_model
    from ddpm.tracking.run_description import describe
    from ddpm.tracking.run_json import attach
    from ddpm.tracking.store import shown_uri

    paths, params, run = stage.paths, stage.params, attach(stage.paths.run, stage.measuring())
    measured = json.loads(paths.metrics.read_text())
    record, registry = Record.from_json(measured), mlflow_registry.MlflowRegistry(params.promote.name)
    drawing = record.protocol.drawing
    remeasure = partial(
        fidelity.remeasure,
        protocol=measured["protocol"],
        prepared=paths.prepared,
        extractor=paths.extractor,
        evaluate=params.evaluate,
        runtime=params.runtime,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / paths.model.name
        model, sha256 = pack(paths.model, file, recipe=drawing, guides=paths.guides)
        model_id = log_model(run, file, model_sha256=sha256, metrics=record.numbers(), bounds=as_dict(params.serve))
        facts = asdict(read_facts(paths.prepared))
        candidate = registry.register(
            sha256=sha256,
            model_id=model_id,
            run_id=run.id,
            record=measured,
            tags=mlflow_registry.contents(model),
            origin=mlflow_registry.origin(model, run, registry.versions(), facts),
            picture=paths.grid,
        )
    with tempfile.TemporaryDirectory() as folder:
        outcome = judge(candidate, registry, rule=params.promote, remeasure=remeasure, folder=Path(folder))
    champion = outcome.version if outcome.verdict in ("promoted", "champion") else outcome.champion
    against = None if champion is outcome.version and outcome.verdict == "champion" else outcome.champion_record
    describe(
        run,
        Decision=decision(outcome.version, champion),
        Metrics=table(metrics_table(measured, against)),
        Links=links(outcome.version, run.experiment_id, run.id),
    )
    receipt = {"name": params.promote.name, "model_sha256": sha256, "tracking_uri": shown_uri()}
    write_json(paths.receipt, receipt)
    print(summary(outcome, metric=params.promote.metric))


if __name__ == "__main__":
    options = ("prepared", "extractor", "model", "guides", "run", "metrics", "grid", "receipt")
    execute(main, *options)
