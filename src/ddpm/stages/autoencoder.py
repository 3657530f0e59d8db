"""DVC stage `autoencoder`: train the autoencoder whose latents diffuse, or take a given one; none with codec pixels."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.compute.processes import leads, together
from ddpm.pipeline.dvc_yaml import code_of_stage
from ddpm.settings import as_dict
from ddpm.stages.stage import Stage, execute

if TYPE_CHECKING:
    from ddpm.data.reading.dataset import Facts
    from ddpm.training.session import Training


def main(stage: Stage) -> None:
    paths, params = stage.paths, stage.params
    if params.codec == "pixels":
        from ddpm.encoding.pixels import write_no_autoencoder

        if leads():
            write_no_autoencoder(paths.autoencoder)
        return

    from ddpm import model_file
    from ddpm.data.reading.dataset import read_facts
    from ddpm.encoding.standardise import standardised
    from ddpm.networks.autoencoder_kl import AutoencoderKL

    facts = read_facts(paths.prepared)
    if params.autoencoder.pretrained is not None:
        if leads():
            _take(stage, facts)
        return
    training = _trained(stage, facts)
    network = training.average()
    if not leads():
        return
    assert isinstance(network, AutoencoderKL)
    spec = standardised(
        training.spec,
        network,
        stage.split("train").images,
        precision=training.precision,
        batch=params.runtime.sample_batch,
        device=stage.device,
    )
    lineage: dict[str, Any] = {"data": facts.name, "data_hash": facts.content_hash, "code_hash": training.code_hash}
    lineage |= {"fingerprint": training.fingerprint, "params": {"autoencoder": as_dict(params.autoencoder)}}
    model_file.save(paths.autoencoder, network=network, spec=spec, lineage=lineage)
    training.keep(paths.autoencoder)


def _take(stage: Stage, facts: "Facts") -> None:
    """Write the autoencoder of autoencoder.pretrained. Raises UserError if it does not fit the images."""
    from ddpm import model_file
    from ddpm.errors import UserError
    from ddpm.files import require_inside
    from ddpm.model_spec import spec_of_autoencoder

    given = Path(str(stage.params.autoencoder.pretrained))
    require_inside(given, stage.paths.starts, key="autoencoder.pretrained", expected="an autoencoder's model file")
    if given.is_dir():
        raise UserError(
            f"autoencoder.pretrained is the folder {given}, expected a model file; make one of a folder of diffusers "
            f"by `ddpm import-codec {given} --out {given}.safetensors`"
        )
    model = model_file.load(given)
    codec = model.spec.codec
    if codec is None or model.codec is None or model.spec.channels != facts.channels or facts.size % codec.factor:
        what = "no autoencoder"
        if codec is not None:
            what = f"an autoencoder of {model.spec.channels} channels whose latents are {codec.factor} times smaller"
        raise UserError(
            f"autoencoder.pretrained is {stage.params.autoencoder.pretrained}, {what}, but the images have "
            f"{facts.channels} channels and {facts.size} pixels; choose an autoencoder that fits, or set it to null"
        )
    spec = spec_of_autoencoder(channels=facts.channels, size=facts.size, codec=codec)
    model_file.save(stage.paths.autoencoder, network=model.codec, spec=spec, lineage=model.lineage)


def _trained(stage: Stage, facts: "Facts") -> "Training":
    """Train the autoencoder to its end and return its training."""
    from ddpm.model_spec import spec_of_autoencoder
    from ddpm.tracker import NullTracker
    from ddpm.training import checkpoint, finished, session
    from ddpm.training.autoencoder import codec_of, train_of
    from ddpm.training.run import run_training

    paths, params, settings = stage.paths, stage.params, stage.params.autoencoder
    if leads() and params.runtime.resume != "required":
        finished.clear_recorded(paths.state, is_known=lambda _: True)
    together()
    perceptual = None
    if settings.perceptual_weight:
        from ddpm.measuring.features.perceptual import perceptual_distance

        perceptual = perceptual_distance(paths.extractor, stage.device)
    training = session.begin(
        spec_of_autoencoder(channels=facts.channels, size=facts.size, codec=codec_of(settings)),
        stage.split("train").images,
        None,
        data_hash=facts.content_hash,
        code_hash=checkpoint.code_hash(*code_of_stage("autoencoder")),
        settings=train_of(settings),
        runtime=params.runtime,
        device=stage.device,
        precision=stage.precision(facts.size),
        state_folder=paths.state,
        autoencoder=settings,
        perceptual=perceptual,
    )
    curves = run_training(
        training,
        tracker=NullTracker(),
        log_every_images=params.tracking.log_every_images,
        grid_every_images=params.tracking.grid_every_images,
        picture=lambda: None,
    )
    if leads():
        last = {name: value for name, value in curves[-1].items() if value is not None}
        terms = ", ".join(f"{name} {last[name]:.4g}" for name in ("loss", *training.terms) if name in last)
        print(f"autoencoder: {terms} (kl in nats per value of an image)")
    return training


if __name__ == "__main__":
    execute(main, "prepared", "extractor", "starts", "autoencoder", "state", in_workers=True)
