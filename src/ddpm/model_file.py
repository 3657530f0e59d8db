"""One safetensors file that explains itself: EMA weights, and in the header how to rebuild and where it came from."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ddpm.compute.hardware import Precision, autocast, memory_format
from ddpm.diffusion import objectives
from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.processes import Process, make_process
from ddpm.diffusion.settings import Objective, Schedule
from ddpm.errors import UserError
from ddpm.networks.unet import Convention, UNet, shapes_of

FORMAT = "ddpm-1"
MAX_CHANNELS = 2**16
MAX_SIZE = 4096
"""Pixels; what a data set may have."""
MAX_STEPS = 10**6
MAX_RESOLUTIONS = 12
"""Each halves the one before, so that more than MAX_SIZE has are for nothing."""
WRONG = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a description of somebody else's may raise where it is used: of the wrong kind, out of range, incomplete."""

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


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model, ready to denoise."""

    network: nn.Module
    spec: dict[str, Any]
    """channels, size, classes (names), schedule, objective, network: what rebuilds the model; and `unconditional`:
    whether it predicts without a label, as guidance and a request without one need."""
    lineage: dict[str, Any]
    """data_hash, params, code_version, mlflow_run_id, …: where it came from."""
    sha256: str
    """Of the file."""
    recipe: dict[str, Any] | None = None
    """How it draws, where the file says so; `generation.recipe` knows what it means."""
    guide: "Model | None" = None
    """The weaker model that the recipe guides against; it came in the same file."""

    @property
    def schedule(self) -> Process:
        return process_of(self.spec)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """[C, *shape] of one sample."""
        return self.spec["channels"], self.spec["size"], self.spec["size"]

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

            return objectives.estimate(objective, network, process, x_t, t)

        return estimate


def process_of(spec: dict[str, Any]) -> Process:
    """The forward process of a model's spec."""
    return make_process(Schedule(**_ABSENT["schedule"] | spec["schedule"]))


def objective_of(spec: dict[str, Any]) -> Objective:
    """What the network of a model's spec predicts."""
    return Objective(**_ABSENT["objective"] | spec["objective"])


def architecture_of(spec: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `UNet` in a model's spec; an absent one means what it means there."""
    told = spec["network"] | {k: tuple(spec["network"][k]) for k in ("multipliers", "attention")}
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
    """The model in the file; nothing in it is executed, and no more memory is taken than the file's size asks for.

    Raises UserError for a file that is missing, torn, or none of ours, whose header describes no model or another one
    than its weights are of, or whose weights are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is no model file; train one with `dvc repro`")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            if FORMAT not in header:
                raise UserError(f"{path} has no {FORMAT!r} in its header; it was not written by this project")
            described, wanted = _described(path, header[FORMAT], tensors=len(found))
            for name in sorted(wanted.keys() | found.keys()):
                has = (found[name].get_dtype(), list(found[name].get_shape())) if name in found else None
                if has not in [(kind, wanted.get(name)) for kind in ("F32", "F16", "BF16")]:
                    raise UserError(
                        f"{path} has {has or 'nothing'} for {name}, but the network in its header has "
                        f"{wanted.get(name, 'nothing')} there; train or fetch it again"
                    )
            weights = {name: file.get_tensor(name) for name in found}
    except SafetensorError as error:
        raise UserError(f"{path} is no whole safetensors file ({error}); build it again with `dvc repro`") from None
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise UserError(f"{path} has weights in {name} that are no finite numbers; train or fetch it again")
    spec, lineage = described["spec"], described["lineage"]
    with open(path, "rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    guide = None
    if (told := described.get("guide")) is not None:
        of_guide = {name: weights.pop(name) for name in list(weights) if name.startswith(_GUIDE)}
        of_guide = {name.removeprefix(_GUIDE): tensor for name, tensor in of_guide.items()}
        guide = Model(_trained(told["spec"], of_guide, device), told["spec"], told["lineage"], told["sha256"])
    return Model(_trained(spec, weights, device), spec, lineage, digest, described.get("recipe"), guide)


def _described(path: Path, text: str, *, tensors: int) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """What the header of a file of so many tensors says, and the shapes that these are to have.

    Raises UserError unless it describes a model, its guide and how it draws. No memory is taken for the networks.
    """
    try:
        described = json.loads(text)
        guide, recipe = described.get("guide"), described.get("recipe")
        parts = {"": described} if guide is None else {"": described, _GUIDE: guide}
        wanted: dict[str, list[int]] = {}
        for prefix, part in parts.items():
            if type(part["lineage"]) is not dict:
                raise TypeError(f"lineage is {type(part['lineage']).__name__}")
            _require_spec(part["spec"], blocks=tensors)
            process_of(part["spec"])
            shapes = shapes_of(architecture_of(part["spec"]))
            wanted |= {f"{prefix}{name}": list(shape) for name, shape in shapes.items()}
        if guide is not None:
            if type(guide["sha256"]) is not str:
                raise TypeError("the sha256 of its guide is no word")
            for key in ("channels", "size", "classes", "schedule"):
                if guide["spec"][key] != described["spec"][key]:
                    raise ValueError(f"its guide has another {key} than the model")
        if recipe is not None and type(recipe) is not dict:
            raise TypeError(f"recipe is {type(recipe).__name__}")
    except WRONG as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{path} describes no model in its header ({said}); train or fetch it again, or read it with the version "
            "of this project that wrote it"
        ) from None
    return described, wanted


def _require_spec(spec: dict[str, Any], *, blocks: int) -> None:
    """Raises one of WRONG for what no model has: of the wrong kind, unknown, or of a size that nothing would hold.

    The numbers by which the network's loops are long are bounded, those of residual blocks by `blocks`.
    """
    process, network = _ABSENT["schedule"] | spec["schedule"], spec["network"]
    objective, convention = asdict(objective_of(spec)), asdict(Convention(**network.get("convention", {})))
    wholes = {
        "channels": (spec["channels"], MAX_CHANNELS),
        "size": (spec["size"], MAX_SIZE),
        "schedule.T": (process["T"], MAX_STEPS),
        "network.blocks": (network["blocks"], blocks),
        "the number of network.multipliers": (len(network["multipliers"]), MAX_RESOLUTIONS),
        "the least of network.multipliers": (min(network["multipliers"]), MAX_CHANNELS),
        "the largest of network.multipliers": (max(network["multipliers"]), MAX_CHANNELS),
        "network.width": (network["width"], MAX_CHANNELS),
        "network.head_channels": (network["head_channels"], MAX_CHANNELS),
        "network.patch": (network.get("patch", 1), MAX_SIZE),
        "1 + network.convention.frequency_shift": (1 + convention["frequency_shift"], 2),
    }
    for name, (value, most) in wholes.items():
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"{name} is {value!r}, expected a whole number from 1 to {most}")
    above_0 = {f"schedule.{name}": process[name] for name in ("shift", "sigma_min", "sigma_max")}
    above_0["objective.sigma_data"] = objective["sigma_data"]
    from_0 = {f"objective.{name}": objective[name] for name in ("min_snr_gamma", "p2_gamma", "vlb_weight")}
    from_0["network.dropout"] = network["dropout"]
    from_0["network.convention.norm_eps"] = convention["norm_eps"]
    for name, value in (above_0 | from_0).items():
        if type(value) not in (int, float) or not 0 <= value < math.inf or (value == 0 and name in above_0):
            least = "above 0" if name in above_0 else "of 0 or above"
            raise ValueError(f"{name} is {value!r}, expected a finite number {least}")
    if process["sigma_min"] >= process["sigma_max"]:
        raise ValueError(f"schedule.sigma_min is {process['sigma_min']}, expected below schedule.sigma_max")
    words: dict[str, tuple[Any, Collection[Any]]] = {
        "objective.target": (objective["target"], objectives.TARGETS),
        "objective.weight": (objective["weight"], objectives.WEIGHTS),
        "objective.learned_variance": (objective["learned_variance"], (False, True)),
        "objective.bounded": (objective["bounded"], (False, True)),
        "schedule.zero_terminal_snr": (process["zero_terminal_snr"], (False, True)),
        "network.embedding": (network.get("embedding", "scale_shift"), ("scale_shift", "add")),
        "network.resample": (network.get("resample", "residual"), ("residual", "conv")),
        "network.convention.strided_padding": (convention["strided_padding"], ("both", "after")),
    }
    for name, (value, known) in words.items():
        if value not in known:
            raise ValueError(f"{name} is {value!r}, expected one of {', '.join(str(one) for one in known)}")
    if type(spec["unconditional"]) is not bool:
        raise TypeError("unconditional is neither true nor false")
    if type(spec["classes"]) is not list or not all(type(name) is str for name in spec["classes"]):
        raise TypeError("classes is no list of names")


def _trained(spec: dict[str, Any], weights: dict[str, Tensor], device: torch.device | str) -> UNet:
    network = build_network(spec).to(device)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)
