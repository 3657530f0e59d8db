"""Models in folders that diffusers' `save_pretrained` writes and `from_pretrained` reads; diffusers is not needed.

The folder contains a pipeline (unet/ and scheduler/, as its train_unconditional example writes it) or only a network
(config.json, with or without scheduler_config.json beside it).
"""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ddpm import model_file
from ddpm.diffusion.settings import Objective, Schedule
from ddpm.errors import UserError
from ddpm.exchange import unet_exchange, unet_options
from ddpm.exchange.read_safely import WEIGHTS, options_in, require_new, shapes_in, weights_in
from ddpm.exchange.unet_options import ExchangeError
from ddpm.files import write_json
from ddpm.model_spec import DDPM_OBJECTIVE, DDPM_SCHEDULE, Spec, architecture_of, build_network, require_diffusion
from ddpm.networks.settings import Network

TARGETS = {"eps": "epsilon", "v": "v_prediction", "x_0": "sample"}
SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
# Values of options that are missing in scheduler_config.json. Schedulers without the options of clipping
# (DPMSolverMultistepScheduler and others) may be replaced by one with them.
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": None,
    "trained_betas": None,
    "prediction_type": "epsilon",
    "variance_type": None,
    "beta_schedule": None,
    "beta_start": None,
    "beta_end": None,
    "rescale_betas_zero_snr": False,
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "sample_max_value": 1.0,
}
T = 1000
"""Steps of the chain. The network of diffusers gets the number of the step; here it does so only with this T."""


def import_model(
    folder: Path, out: Path, *, schedule: str | None, target: str | None, null_label: bool
) -> tuple[Spec, str]:
    """Write the folder's U-Net as a model file at `out`; return its spec and sha256.

    `schedule` and `target` are names as in params.yaml, for a folder without scheduler_config.json.
    `null_label`: the last class means "no label".

    Raises UserError.
    """
    unet, scheduler = _places(folder)
    process, objective = _read_scheduler(scheduler, schedule=schedule, target=target)
    options, weights = unet / "config.json", unet / WEIGHTS
    shapes, config = shapes_in(weights), options_in(options)
    try:
        # First compare only the shapes in the file's header, without memory: config.json may ask for any size.
        unet_exchange.from_diffusers(config, shapes, null_label=null_label)
        architecture, state = unet_exchange.from_diffusers(config, weights_in(weights), null_label=null_label)
    except ExchangeError as error:
        raise UserError(f"{options}: {error}") from None

    channels, out_channels, size, classes, convention = (
        architecture.pop(key) for key in ("channels", "out_channels", "size", "classes", "convention")
    )
    if out_channels != (2 if objective.learned_variance else 1) * channels:
        raise UserError(
            f"{options}: out_channels is {out_channels} and in_channels {channels}, expected the same number, or twice "
            "as many outputs if variance_type in scheduler_config.json is learned_range"
        )
    try:
        spec = Spec(
            channels=channels,
            size=size,
            classes=tuple(str(k) for k in range(classes)),
            unconditional=null_label or not classes,
            schedule=process,
            objective=objective,
            network=Network(patch=1, **architecture),
            convention=convention,
        )
    except ValueError as error:
        raise UserError(f"{options}: its network has no settings here, because {error}") from None
    network = build_network(spec)
    # The first step is 0 in diffusers and 1 here.
    network.load_state_dict(unet_exchange.with_time_shifted(architecture_of(spec), state, by=-1))
    lineage = {"imported_from": "diffusers", "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    return spec, model_file.save(out, network=network, spec=spec, lineage=lineage)


def export_model(model: model_file.Model, folder: Path, *, card: str | None = None) -> dict[str, Any]:
    """Write a pipeline's folder, which `DDPMPipeline.from_pretrained` reads; return the network's config.

    `card` is the model card, the content of README.md.

    Raises UserError.
    """
    require_new(folder)
    scheduler = _scheduler(model.spec)
    architecture = architecture_of(model.spec)
    state = {name: tensor.cpu() for name, tensor in model.network.state_dict().items()}
    try:
        config, weights = unet_exchange.to_diffusers(
            architecture, unet_exchange.with_time_shifted(architecture, state, by=1)
        )
    except ExchangeError as error:
        raise UserError(f"diffusers does not support this model: {error}") from None

    aside = folder.with_name(folder.name + ".part")
    parts = {"scheduler": scheduler, "unet": config}
    index = {name: ["diffusers", options["_class_name"]] for name, options in parts.items()}
    write_json(aside / "model_index.json", {"_class_name": "DDPMPipeline"} | index)
    write_json(aside / "scheduler" / "scheduler_config.json", scheduler)
    write_json(aside / "unet" / "config.json", config)
    save_file(weights, aside / "unet" / WEIGHTS, {"format": "pt"})
    if card is not None:
        (aside / "README.md").write_text(card, encoding="utf-8")
    os.replace(aside, folder)
    return config


def why_not_exported(spec: Spec) -> str | None:
    """Return the reason why diffusers would not support a model of these settings; None if it would."""
    try:
        _scheduler(spec)
        unet_options.to_theirs(architecture_of(spec))
    except UserError as error:
        return str(error).removeprefix("diffusers does not support this model: ")
    except ExchangeError as error:
        return str(error)
    return None


def _places(folder: Path) -> tuple[Path, Path | None]:
    """Return the folder of the network, and the file of the scheduler or None."""
    unet = next((place for place in (folder / "unet", folder) if (place / "config.json").is_file()), None)
    if unet is None:
        raise UserError(f"{folder} has no config.json and no unet/config.json; name a folder written by diffusers")
    at = (folder / "scheduler", folder)
    files = [place / "scheduler_config.json" for place in at]
    return unet, next((file for file in files if file.is_file()), None)


def _read_scheduler(file: Path | None, *, schedule: str | None, target: str | None) -> tuple[Schedule, Objective]:
    """Return `schedule` and `objective` of a model's spec."""
    if file is None:
        given = replace(DDPM_SCHEDULE, name=schedule or DDPM_SCHEDULE.name)  # type: ignore[arg-type]
        return given, replace(DDPM_OBJECTIVE, target=target or DDPM_OBJECTIVE.target)  # type: ignore[arg-type]
    if schedule or target:
        raise UserError(f"schedule and target are in {file}; leave out --schedule and --target")
    read = SCHEDULER | options_in(file)
    without_signal = read["rescale_betas_zero_snr"] is True  # at T, where the image cannot be computed from eps
    known: dict[str, list[Any]] = {
        "num_train_timesteps": [T],
        "trained_betas": [None],
        "beta_schedule": list(SCHEDULES.values()),
        "rescale_betas_zero_snr": [False, True],
        "prediction_type": [name for ours, name in TARGETS.items() if ours != "eps" or not without_signal],
        "variance_type": ["learned_range", "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", None],
        "thresholding": [False, True],
    }
    if read["beta_schedule"] == "linear":
        known |= {"beta_start": [1e-4], "beta_end": [0.02]}
    # This project clips every estimate of an image to [-1, 1].
    known |= (
        {"sample_max_value": [1.0]} if read["thresholding"] else {"clip_sample": [True], "clip_sample_range": [1.0]}
    )
    for key, values in known.items():
        if read[key] not in values:
            expected = " or ".join(map(json.dumps, values))
            raise UserError(f"{file}: {key} is {json.dumps(read[key])}, expected {expected}")
    ours = {theirs: name for name, theirs in (SCHEDULES | TARGETS).items()}
    objective = replace(
        DDPM_OBJECTIVE,
        target=ours[read["prediction_type"]],  # type: ignore[arg-type]
        learned_variance=read["variance_type"] == "learned_range",
        bounded=bool(read["thresholding"]),
    )
    name: Any = ours[read["beta_schedule"]]
    return replace(DDPM_SCHEDULE, name=name, zero_terminal_snr=without_signal), objective


def _scheduler(spec: Spec) -> dict[str, Any]:
    """Return scheduler_config.json; a schedule without a name in diffusers is given by its betas."""
    from ddpm.diffusion import schedules
    from ddpm.diffusion.processes import make_process

    require_diffusion(spec, "export to diffusers")
    if spec.draws_latents:
        raise UserError(
            "diffusers does not support this model: it draws latents, which no pipeline of UNet2DModel decodes with an "
            "AutoencoderKL; `ddpm export-codec` exports its autoencoder"
        )
    process, objective = make_process(spec.schedule), spec.objective
    if not isinstance(process, schedules.Schedule) or process.T != T:
        raise UserError(f"diffusers does not support this model: its schedule is not discrete with T {T}")
    if objective.target not in TARGETS:
        raise UserError(
            f"diffusers does not support this model: its target is {objective.target}, expected {' or '.join(TARGETS)}"
        )
    options = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": T,
        "prediction_type": TARGETS[objective.target],
        "variance_type": "learned_range" if objective.learned_variance else "fixed_small",
        "clip_sample": True,
    }
    if objective.bounded:  # with a maximum of 1, thresholding is clipping, and other schedulers of diffusers keep it
        options |= {"thresholding": True, "sample_max_value": 1.0}
    schedule = spec.schedule
    if schedule.name in SCHEDULES and schedule.shift == 1 and not schedule.zero_terminal_snr:
        return options | {"beta_schedule": SCHEDULES[schedule.name], "beta_start": 1e-4, "beta_end": 0.02}
    return options | {"trained_betas": process.betas[1:].tolist()}
