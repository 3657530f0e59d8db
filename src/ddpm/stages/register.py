"""DVC stage `register`: register the model; move the champion's alias or not, and store the reasons in the version."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.errors import UserError
from ddpm.settings import as_dict
from ddpm.stages.stage import Stage, execute

if TYPE_CHECKING:
    from ddpm.model_file import Model


def main(stage: Stage) -> None:
    args, params = stage.paths, stage.params

    from ddpm import model_file
    from ddpm.files import write_json
    from ddpm.generation.recipe import recipe_from
    from ddpm.measuring.record import Record
    from ddpm.promotion.judge import judge, summary
    from ddpm.tracking import mlflow_registry
    from ddpm.tracking.logged_model import log_model
    from ddpm.tracking.run_json import attach
    from ddpm.tracking.store import shown_uri

    measured = json.loads(args.metrics.read_text())
    record = Record.from_json(measured)
    drawing = record.protocol.drawing
    guide_sha256 = recipe_from(drawing).guide
    run = attach(args.run)
    model = model_file.load(args.model)
    guide = None if guide_sha256 is None else _guide(guide_sha256, args.guides)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / args.model.name
        sha256 = model_file.save(
            file, network=model.network, spec=model.spec, lineage=model.lineage, recipe=drawing, guide=guide
        )
        model_id = log_model(run, file, model_sha256=sha256, metrics=record.numbers(), bounds=as_dict(params.serve))
    registry = mlflow_registry.MlflowRegistry(params.promote.name)
    candidate = registry.register(
        sha256=sha256,
        model_id=model_id,
        run_id=run.id,
        record=measured,
        tags=mlflow_registry.origin(model, run) | mlflow_registry.contents(model.sha256, drawing),
    )

    def remeasure(file: Path) -> Mapping[str, Any]:
        from ddpm.measuring import fidelity

        return fidelity.remeasure(
            file,
            protocol=measured["protocol"],
            prepared=args.prepared,
            extractor=args.extractor,
            evaluate=params.evaluate,
            runtime=params.runtime,
        )

    with tempfile.TemporaryDirectory() as folder:
        outcome = judge(candidate, registry, rule=params.promote, remeasure=remeasure, folder=Path(folder))
    receipt = {"name": params.promote.name, "model_sha256": sha256, "tracking_uri": shown_uri()}
    write_json(args.receipt, receipt)
    print(summary(outcome, metric=params.promote.metric))


def _guide(sha256: str, guides: Path) -> "Model":
    """Return the guide with which the metrics were measured, found by the hash of its content."""
    from ddpm import model_file

    for file in sorted(guides.rglob("*.safetensors")):
        with open(file, "rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() == sha256:
                return model_file.load(file)
    raise UserError(
        f"{guides} has no file with sha256 {sha256[:12]}…, the guide with which the metrics were measured; "
        "put it back, or measure again with `dvc repro`"
    )


if __name__ == "__main__":
    options = ("prepared", "extractor", "model", "guides", "run", "metrics", "receipt")
    execute(main, *options)
