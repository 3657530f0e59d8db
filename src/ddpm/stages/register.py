"""DVC stage `register`: register the model; move the champion's alias or not, and store the reasons in the version."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.settings import as_dict
from ddpm.stages.stage import Stage, execute

if TYPE_CHECKING:
    from ddpm.degrading.pictures import Pictures
    from ddpm.measuring.contest import PairedContest
    from ddpm.model_file import Model


def main(stage: Stage) -> None:
    import numpy as np

    from ddpm.canary import kept
    from ddpm.canary.examine import Examination
    from ddpm.data.reading.dataset import read_facts
    from ddpm.files import write_json
    from ddpm.generation.cascade import FILE
    from ddpm.generation.image_set import read_captions
    from ddpm.generation.packed_model import pack
    from ddpm.generation.recipe import load_model
    from ddpm.measuring.record import Record
    from ddpm.promotion.figures_beside import likelihood_of, unfit_in
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

    def begin(candidate: Path, champion: Path | None) -> "PairedContest":
        from ddpm.measuring.contest import Measuring, PairedContest

        evaluated = Measuring(
            prepared=paths.prepared,
            extractor=paths.extractor,
            second=paths.second,
            evaluate=params.evaluate,
            runtime=params.runtime,
        )
        own, other = (None if file is None else load_model(file, evaluated.device) for file in (candidate, champion))
        assert own is not None
        images = np.load(paths.images / "images.npy", mmap_mode="r")
        return PairedContest(own, other, first_block=images, seed=record.protocol.seed, measuring=evaluated)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / paths.model.name
        model, sha256 = pack(paths.model, file, recipe=drawing, guides=paths.guides, base=paths.images / FILE)
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
        compared, classes = Path(folder) / "kept.safetensors", paths.images / "labels.npy"
        kept.make(
            load_model(file, stage.device),
            measured=np.load(paths.images / "images.npy", mmap_mode="r"),
            labels=np.load(classes) if classes.exists() else None,
            texts=read_captions(paths.images),
            given=_given(stage, model),
            extractor=paths.extractor,
        ).write(compared)
        registry.keep_file(candidate.number, compared)
        registry.sign_again(candidate.number)
    with tempfile.TemporaryDirectory() as folder:
        outcome = judge(
            candidate,
            registry,
            rules=params.promote,
            begin=begin,
            folder=Path(folder),
            likelihood=likelihood_of(paths.likelihood),
            unfit=unfit_in(paths.reactions),
            canary=Examination(limits=params.canary, device=params.runtime.device),
        )
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
    print(summary(outcome, metric=params.promote.main.name))


def _given(stage: Stage, model: "Model") -> "Pictures | None":
    """Return the pictures of which the measured images were drawn; None for a model that is given none by requests."""
    from ddpm.generation.generate import evaluation_pictures
    from ddpm.generation.image_set import read_sampling

    sampling = read_sampling(stage.paths.images, n=None)
    if model.spec.image is None or sampling.recipe.base is not None:
        return None
    images, noise = stage.split("test").images, sampling.recipe.picture_noise
    return evaluation_pictures(model.spec, n=sampling.n, seed=sampling.seed, images=images, noise=noise)


if __name__ == "__main__":
    options = ("prepared", "images", "extractor", "second", "model", "guides", "run", "metrics", "likelihood")
    execute(main, *options, "reactions", "grid", "receipt")
