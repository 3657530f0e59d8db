"""One safetensors file that explains itself: EMA weights, and in the header how to rebuild and where it came from."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ddpm.diffusion.guidance import LabelledDenoise, classifier_free, clipped
from ddpm.diffusion.objectives import Objective
from ddpm.diffusion.schedules import Schedule, make_schedule
from ddpm.errors import UserError
from ddpm.networks.unet import UNet
from ddpm.runtime import Precision, autocast

FORMAT = "ddpm-1"


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

    @property
    def schedule(self) -> Schedule:
        return make_schedule(**self.spec["schedule"])

    def denoiser(self, *, guidance: float, precision: Precision = "float32") -> LabelledDenoise:
        """(x_t [N,C,H,W], t [N], labels [N] or None) -> x_0 in [-1, 1]."""
        schedule, objective = self.schedule, Objective(**self.spec["objective"])

        def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            with autocast(x_t.device, precision):
                prediction = self.network(x_t, schedule.c_noise(t), labels)
            return objective.x_0(prediction.to(torch.float32), schedule, x_t=x_t, t=t)

        return clipped(classifier_free(denoise, scale=guidance))


def build_network(spec: dict[str, Any]) -> UNet:
    """An untrained network from a model's spec."""
    architecture = {k: v for k, v in spec["network"].items() if k != "label_dropout"}
    return UNet(
        channels=spec["channels"],
        size=spec["size"],
        classes=len(spec["classes"]),
        **architecture | {k: tuple(architecture[k]) for k in ("multipliers", "attention")},
    )


def save(path: Path | str, *, network: nn.Module, spec: dict[str, Any], lineage: dict[str, Any]) -> str:
    """Writes the file aside, flushes it and renames it; returns its sha256."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    # One key: safetensors writes several in random order, and the same model shall be the same file.
    header = {FORMAT: json.dumps({"spec": spec, "lineage": lineage}, sort_keys=True)}
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, aside, header)
    with open(aside, "rb+") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    os.replace(aside, path)
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
    network = build_network(spec).to(device)
    network.load_state_dict(weights)
    with open(path, "rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    return Model(network.eval().requires_grad_(False), spec, lineage, digest)
