"""One safetensors file that explains itself: EMA weights, and in the header how to rebuild and where it came from."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ddpm.diffusion.guidance import LabelledDenoise, classifier_free, clipped
from ddpm.diffusion.likelihood import Estimate
from ddpm.diffusion.objectives import Objective
from ddpm.diffusion.processes import Process, make_process
from ddpm.errors import UserError
from ddpm.networks.unet import Convention, UNet
from ddpm.runtime import Precision, autocast, memory_format

FORMAT = "ddpm-1"

# What a spec without these keys means: files that were written before they existed.
_ABSENT: dict[str, dict[str, Any]] = {
    "schedule": {
        "time": "discrete",
        "shift": 1.0,
        "zero_terminal_snr": False,
        "sigma_min": 0.002,
        "sigma_max": 80.0,
    },
    "objective": {"p2_gamma": 1.0, "sigma_data": 0.5, "learned_variance": False, "vlb_weight": 0.001, "bounded": False},
}
_GUIDE = "guide."
"""Before the names of the guide's tensors."""
_OF_TRAINING = ("time_sampling", "log_normal")  # keys of `objective` that a finished model has no use for


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model, ready to denoise."""

    network: nn.Module
    spec: dict[str, Any]
    """channels, size, classes (names), schedule, objective, network: what rebuilds the model."""
    lineage: dict[str, Any]
    """data_hash, params, code_version, mlflow_run_id, …: where it came from."""
    sha256: str
    """Of the file."""
    recipe: dict[str, Any] | None = None
    """How it draws, where the file says so: a `diffusion.settings.Recipe` as plain values."""
    guide: "Model | None" = None
    """The weaker model that the recipe guides against; it came in the same file."""

    @property
    def schedule(self) -> Process:
        return process_of(self.spec)

    def estimator(self, *, precision: Precision = "float32") -> Callable[[Tensor, Tensor, Tensor | None], Estimate]:
        """(x_t [N,C,H,W], t [N], labels [N] or None) -> x_0, clipped only where training clipped it
        (`objective.bounded`), and the variance where it was learned.
        """
        process, objective = self.schedule, objective_of(self.spec)
        self.network.to(memory_format=memory_format(next(self.network.parameters()).device, precision))

        def estimate(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Estimate:
            def network(x: Tensor, c_noise: Tensor) -> Tensor:
                with autocast(x.device, precision):
                    return self.network(x, c_noise, labels)

            return objective.estimate(network, process, x_t, t)

        return estimate

    def denoiser(self, *, guidance: float, precision: Precision = "float32") -> LabelledDenoise:
        """(x_t [N,C,H,W], t [N], labels [N] or None) -> x_0 in [-1, 1]."""
        estimate = self.estimator(precision=precision)

        def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            return estimate(x_t, t, labels).x_0

        return clipped(classifier_free(denoise, scale=guidance))


def process_of(spec: dict[str, Any]) -> Process:
    """The forward process of a model's spec."""
    return make_process(**_ABSENT["schedule"] | spec["schedule"])


def objective_of(spec: dict[str, Any]) -> Objective:
    """What the network of a model's spec predicts."""
    settings = _ABSENT["objective"] | spec["objective"]
    return Objective(**{name: value for name, value in settings.items() if name not in _OF_TRAINING})


def architecture_of(spec: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `UNet` in a model's spec; an absent one means what it means there."""
    told = {k: v for k, v in spec["network"].items() if k != "label_dropout"}
    told |= {k: tuple(told[k]) for k in ("multipliers", "attention")}
    return told | {
        "channels": spec["channels"],
        "out_channels": (2 if objective_of(spec).learned_variance else 1) * spec["channels"],
        "size": spec["size"],
        "classes": len(spec["classes"]),
        "convention": Convention(**told.get("convention", {})),
    }


def build_network(spec: dict[str, Any]) -> UNet:
    """An untrained network from a model's spec."""
    return UNet(**architecture_of(spec))


def save(
    path: Path | str,
    *,
    network: nn.Module,
    spec: dict[str, Any],
    lineage: dict[str, Any],
    recipe: dict[str, Any] | None = None,
    guide: Model | None = None,
) -> str:
    """Writes the file aside, flushes it and renames it; returns its sha256. The same content gives the same file.

    Raises UserError where the disk is full or refuses; then a file that was there before is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    # One key: safetensors writes several in random order, and the same model shall be the same file.
    described: dict[str, Any] = {"spec": spec, "lineage": lineage}
    tensors = dict(network.state_dict())
    if recipe is not None:
        described["recipe"] = recipe
    if guide is not None:
        described["guide"] = {"spec": guide.spec, "lineage": guide.lineage, "sha256": guide.sha256}
        tensors |= {f"{_GUIDE}{name}": tensor for name, tensor in guide.network.state_dict().items()}
    header = {FORMAT: json.dumps(described, sort_keys=True)}
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside, header)
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.replace(aside, path)
    except (SafetensorError, OSError) as error:
        aside.unlink(missing_ok=True)
        raise UserError(f"{path} could not be written ({error}); make space there and start again") from None
    return digest


def load(path: Path | str, device: torch.device | str = "cpu") -> Model:
    """The model in the file; nothing in it is executed.

    Raises UserError for a file that is missing, torn, or none of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is no model file; train one with `dvc repro`")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is no whole safetensors file ({error}); build it again with `dvc repro`") from None
    if FORMAT not in header:
        raise UserError(f"{path} has no {FORMAT!r} in its header; it was not written by this project")
    described = json.loads(header[FORMAT])
    spec, lineage = described["spec"], described["lineage"]
    with open(path, "rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    guide = None
    if (told := described.get("guide")) is not None:
        of_guide = {name: weights.pop(name) for name in list(weights) if name.startswith(_GUIDE)}
        of_guide = {name.removeprefix(_GUIDE): tensor for name, tensor in of_guide.items()}
        guide = Model(_trained(told["spec"], of_guide, device), told["spec"], told["lineage"], told["sha256"])
    return Model(_trained(spec, weights, device), spec, lineage, digest, described.get("recipe"), guide)


def _trained(spec: dict[str, Any], weights: dict[str, Tensor], device: torch.device | str) -> UNet:
    network = build_network(spec).to(device)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)
