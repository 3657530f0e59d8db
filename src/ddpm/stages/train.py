"""DVC stage `train`: train the diffusion model and log it live; a killed training continues from its checkpoint."""

from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING, Any

from ddpm import unread_settings
from ddpm.compute.processes import leads, together
from ddpm.pipeline.dvc_yaml import code_of_stage
from ddpm.settings import as_dict
from ddpm.stages.stage import Stage, execute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

    from ddpm.data.reading.dataset import Facts
    from ddpm.degrading.pictures import Pictures
    from ddpm.images import Images
    from ddpm.measuring.during_training import FewImages
    from ddpm.model_file import Model
    from ddpm.planning.length import Planned
    from ddpm.training.session import Training
    from ddpm.training.start import Parent


def main(stage: Stage) -> None:
    from ddpm import model_file
    from ddpm.data.reading.dataset import read_facts
    from ddpm.degrading.pictures import Pictures
    from ddpm.files import write_json
    from ddpm.generation.grid import grid_by_class
    from ddpm.generation.pictures import beside, preview
    from ddpm.measuring.metric_catalogue import CURVES
    from ddpm.model_file import Model
    from ddpm.reporting.run_names import name_of
    from ddpm.reporting.run_sections import tried
    from ddpm.tracker import NullTracker, finishing, flat
    from ddpm.tracking.mlflow_registry import start_tags
    from ddpm.tracking.recorded_run import Record
    from ddpm.tracking.run_description import describe
    from ddpm.tracking.run_json import run_record
    from ddpm.tracking.training_run import champion_run, knows, start_run
    from ddpm.training import finished
    from ddpm.training.run import run_training

    paths, tracking, facts = stage.paths, stage.params.tracking, read_facts(stage.paths.prepared)
    for sentence in unread_settings.warned_of_size(stage.params, facts.size) if leads() else []:
        print(f"warning: {sentence}")
    if leads() and stage.params.runtime.resume != "required":
        finished.clear_recorded(paths.state, is_known=knows)
    together()
    of_latents = stage.params.codec == "autoencoder"
    autoencoder = model_file.load(paths.autoencoder, stage.device) if of_latents else None
    training, planned = _begin(stage, facts, autoencoder)
    settings = _settings(training, planned)

    few = _few_images(stage, training) if leads() else None
    measured: dict[str, float] = {}

    def picture() -> "Image":
        """Draw images of the averaged network, and measure them if there are enough for FID."""
        codec = None if autoencoder is None else autoencoder.codec
        model = Model(training.average(), training.spec, lineage={}, sha256="", codec=codec)
        if few is None:
            return preview(model, training.precision, _held_out_pictures(stage, training))
        images, labels = few.draw(model)
        measured[f"{CURVES}fid"] = few.fid(images)
        if isinstance(labels, Pictures):
            return beside(labels, images, 100)
        return preview(model, training.precision) if model.spec.text is not None else grid_by_class(images, labels, 100)

    def gathered() -> None:
        training.average()  # gathering a sharded network needs all processes

    intervals = {"log_every_images": tracking.log_every_images, "grid_every_images": tracking.grid_every_images}
    if not leads():
        run_training(training, tracker=NullTracker(), picture=gathered, measure=dict, **intervals)
        gathered()
        return
    logged = flat(**_logged(stage, settings), dataset={"content_hash": facts.content_hash})
    champion = champion_run(stage.params.promote.name)
    params = {key: str(value) for key, value in logged.items()}
    tracker = start_run(
        experiment=tracking.experiment,
        name=name_of(params, champion and champion[1]),
        facts=facts,
        prepared=paths.prepared,
        run_id=training.extra.get("run_id"),
        kept=training.folder / finished.TRACKED,
    )
    with finishing(tracker):
        training.extra["run_id"] = tracker.run_id
        tracker.params(logged)
        describe(tracker, What_was_tried=tried(params, champion))
        tags = start_tags(training.start.record()) if training.start else {}
        tags |= {f"machine.{name}": str(value) for name, value in _machine(training).items()}
        tags |= {"fingerprint": training.fingerprint}
        tracker.tags(tags)
        run_training(training, tracker=tracker, picture=picture, measure=lambda: measured, **intervals)
        sha256 = _write(stage, training, facts, {"params": settings, "fingerprint": training.fingerprint}, autoencoder)
        tracker.settle()  # run.json must not name a run whose metrics are incomplete
        record = Record.of(flat(**settings), tags | {"data.content_hash": facts.content_hash}, facts)
        write_json(paths.run, run_record(tracker, model_sha256=sha256, record=record))
        for path, folder in ((paths.docs, "data_docs"), (paths.validation, "data"), (paths.curves, "training")):
            tracker.artifact(path, folder)
    training.keep(paths.model)


def _begin(stage: Stage, facts: "Facts", autoencoder: "Model | None") -> "tuple[Training, Planned | None]":
    """Print the plan; return the training, if it may begin, and the length planned for train.minutes, if it is set."""
    from dataclasses import replace

    from ddpm.networks.native_norm import turn_on_where_it_serves
    from ddpm.networks.settings import CONVENTION
    from ddpm.planning.before_training import agreed
    from ddpm.planning.plan import Pictures
    from ddpm.text.conditions import of_images
    from ddpm.tracking.parent import find_parent, note_training
    from ddpm.training import checkpoint, session
    from ddpm.training.settings import determining
    from ddpm.training.spec import SECTIONS, sections_of, spec_of

    params, split = stage.params, stage.split("train")
    samples, data_hash = split.images, facts.content_hash
    if autoencoder is not None:
        samples = _latents(stage, autoencoder)
        data_hash = f"{data_hash}, latents of {autoencoder.sha256}"
    sections = sections_of(stage.params)
    origin: dict[str, Any] = {
        "data_hash": data_hash,
        "code_hash": checkpoint.code_hash(*code_of_stage("train")),
    }
    plain = {name: as_dict(params)[name] for name in SECTIONS} | {"train": determining(params.train)}
    key = checkpoint.fingerprint({"params": plain, "promote.name": params.promote.name, **origin})
    parent = find_parent(
        params.train.start,
        starts=stage.paths.starts,
        classes=len(facts.classes),
        name=params.promote.name,
        state=stage.paths.state,
        key=key,
        resume=params.runtime.resume,
    )
    if parent is not None and parent.model is None:  # no weights to keep, so there are no adapters either
        params = replace(params, train=replace(params.train, lora=replace(params.train.lora, rank=0)))
        sections["train"] = params.train
    convention = CONVENTION if parent is None or parent.model is None else parent.model.spec.convention
    sections |= {"autoencoder": autoencoder.spec.codec} if autoencoder is not None else {}
    sections |= _words(stage, facts, parent) if params.condition == "text" else {}
    spec = spec_of(channels=facts.channels, size=facts.size, classes=facts.classes, convention=convention, **sections)
    machine: dict[str, Any] = {"device": stage.device, "precision": stage.precision(spec.noise_size)}
    unused = turn_on_where_it_serves(params.runtime.native_norm, **machine)
    if unused and leads():
        print(unused)
    folder = stage.paths.state / session.fingerprint_of(spec, params.train, parent=parent, **origin)
    with _imported_meanwhile("mlflow", "torch._dynamo") if leads() else nullcontext():
        planned = agreed(params, spec, Pictures(facts.train, facts.test), folder=folder, **machine)
    training = session.begin(
        spec,
        samples,
        of_images(spec, split.labels, split.captions),
        **origin,
        **machine,
        settings=params.train,
        planned=planned.settings(params.train) if planned else None,
        runtime=params.runtime,
        state_folder=stage.paths.state,
        parent=parent,
    )
    if leads() and training.start:
        note_training(training.folder, key=key)
        for sentence in training.start.sentences() if not training.state.images_seen else []:
            print(sentence)
        if training.settings.lora.rank:
            print(f"{training.trained:,} parameters are trained; the network has {training.parameters:,}")
    return training, planned


def _latents(stage: Stage, autoencoder: "Model") -> "Images":
    """Return the latents of the training images. Raises UserError if they are those of another autoencoder."""
    from ddpm.data.reading.dataset import read_latents
    from ddpm.errors import UserError

    latents = read_latents(stage.paths.latents, stage.params.runtime)
    if latents is None or latents.autoencoder_sha256 != autoencoder.sha256:
        raise UserError(
            f"{stage.paths.latents} has no latents of {stage.paths.autoencoder}; encode the images with "
            "`dvc repro encode`"
        )
    return latents.samples


def _words(stage: Stage, facts: "Facts", parent: "Parent | None") -> dict[str, Any]:
    """Return the tokenizer, that of a parent that has one, and the settings of the text, with examples."""
    from ddpm.text.learned import learned

    held_out, train = (stage.split(name).captions() for name in ("test", "train"))
    theirs = None if parent is None or parent.model is None else parent.model.spec.tokenizer
    words = learned(stage.params.text, train=train, held_out=held_out, theirs=theirs)
    if leads():
        print(words.sentence(images=facts.train))
    return {"text": words.settings, "tokenizer": words.tokenizer}


@contextmanager
def _imported_meanwhile(*modules: str) -> "Iterator[None]":
    """Import these modules in a thread while the block waits for another process; this takes 3 s of processor time.

    A module that cannot be imported is left to where it is used.
    """

    def import_all() -> None:
        for module in modules:
            with suppress(ImportError):
                import_module(module)

    thread = Thread(target=import_all, name="imports")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _few_images(stage: Stage, training: "Training") -> "FewImages | None":
    """Return what draws and measures images during the training; None if evaluate.during is 0 or FID is impossible."""
    from ddpm.measuring.during_training import few_images

    params = stage.params
    if not params.evaluate.during:
        return None
    return few_images(
        params.evaluate.during,
        params.sample,
        stage.split("test").images,
        extractor=stage.paths.extractor,
        device=training.device,
        precision=training.precision,
        batch=params.runtime.sample_batch,
        method=params.method,
        captions=stage.split("test").captions,
    )


def _held_out_pictures(stage: Stage, training: "Training") -> "Pictures | None":
    """Return degraded pictures of held-out images; None for a model that is given none."""
    from ddpm.generation.generate import evaluation_pictures

    if training.spec.image is None:
        return None
    images, sample = stage.split("test").images, stage.params.sample
    return evaluation_pictures(training.spec, n=100, seed=sample.seed, images=images, noise=sample.picture_noise)


def _settings(training: "Training", planned: "Planned | None") -> dict[str, Any]:
    """Return the sections of params.yaml that determine the model, and how its length was planned."""
    from ddpm.training.settings import determining
    from ddpm.training.spec import settings_of

    sections = settings_of(training.spec) | {"train": determining(training.settings)}
    return sections | ({"planned": planned.described()} if planned else {})


def _logged(stage: Stage, settings: dict[str, Any]) -> dict[str, Any]:
    """Return all sections of params.yaml, with `settings` in place of those that determine the model."""
    sections = as_dict(stage.params)
    return sections | {
        name: sections.get(name, {}) | values if isinstance(values, dict) else values
        for name, values in settings.items()
    }


def _machine(training: "Training") -> dict[str, str | int]:
    from ddpm.compute.hardware import kind_of_machine
    from ddpm.networks import native_norm

    native: dict[str, str | int] = {"native_norm": True} if native_norm.is_on() else {}
    return (
        kind_of_machine(training.device) | native | {"precision": training.precision, "parameters": training.parameters}
    )


def _write(
    stage: Stage, training: "Training", facts: "Facts", origin: dict[str, Any], autoencoder: "Model | None"
) -> str:
    """Write the model, the curves and the report; return the model file's sha256. `origin` is part of the lineage."""
    from ddpm import model_file
    from ddpm.files import write_json
    from ddpm.training.curves import write_curves

    lineage = {"data": facts.name, "data_hash": facts.content_hash, "code_hash": training.code_hash, **origin}
    lineage["machine"] = _machine(training)
    lineage |= {"start": training.start.record()} if training.start else {}
    write_curves(stage.paths.curves, training.extra["curves"])
    plan = {name: origin["params"][name] for name in ("planned",) if name in origin["params"]}
    write_json(stage.paths.report, training.report() | plan)
    codec = None
    if autoencoder is not None:
        codec, lineage["autoencoder"] = autoencoder.codec, {"sha256": autoencoder.sha256} | autoencoder.lineage
    network = training.average()
    return model_file.save(stage.paths.model, network=network, spec=training.spec, lineage=lineage, codec=codec)


if __name__ == "__main__":
    options = ("prepared", "latents", "autoencoder", "starts", "extractor", "validation", "docs")
    execute(main, *options, "model", "run", "curves", "report", "state", in_workers=True)
