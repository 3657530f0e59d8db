"""The model file: a safetensors file of EMA weights, whose header describes the network and the model's origin."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ddpm.compute.hardware import Precision, autocast, memory_format, numbered
from ddpm.diffusion import objectives
from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.processes import Process, make_process
from ddpm.errors import UserError
from ddpm.model_spec import CODEC, Spec, build_codec, build_network, fault_of_base, require_diffusion, shapes_of_weights
from ddpm.networks.autoencoder_kl import AutoencoderKL
from ddpm.networks.cast_weights import with_cast_weights
from ddpm.networks.conditioned import ConditionedNetwork, DirectNetwork
from ddpm.settings import fault_in, require, section

FORMAT = "ddpm-1"
WRONG = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Errors that an invalid header may raise: wrong types, values out of range, missing keys."""

_N = TypeVar("_N", bound=nn.Module)
_GUIDE = "guide."
"""Prefix of the names of the guide's tensors."""
_BASE = "base."
"""The same of the base's."""


@section
class Origin:
    """The part of a header that describes a model: how to rebuild it, and its origin."""

    spec: Spec
    lineage: dict[str, Any]
    """data_hash, params, code_version, mlflow_run_id, …"""


@section
class Guide(Origin):
    """The weaker model that the recipe guides against."""

    sha256: str
    """Hash of the guide's own model file."""


@section
class Base(Guide):
    """The model that draws the small pictures of a cascade."""

    recipe: dict[str, Any]
    """Its own settings for sampling."""


@section
class Header(Origin):
    """The content of a model file besides the weights."""

    recipe: dict[str, Any] | None = None
    """Settings for sampling, read by `generation.recipe`."""
    guide: Guide | None = None
    base: Base | None = None

    def __post_init__(self) -> None:
        if self.base is not None:
            fault = fault_of_base(self.base.spec, self.spec)
            require(fault is None, f"its base {fault}")
        for key in ("channels", "size", "classes", "reading", "image", "schedule", "codec"):
            same = self.guide is None or getattr(self.guide.spec, key) == getattr(self.spec, key)
            named = "tokenizer or text.length" if key == "reading" else key
            require(same, f"its guide has another {named} than the model")


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model, ready to denoise."""

    network: nn.Module
    spec: Spec
    """Images, classes, process, objective and network."""
    lineage: dict[str, Any]
    """Origin of the model: data_hash, params, code_version, mlflow_run_id, …"""
    sha256: str
    """Hash of the file."""
    recipe: dict[str, Any] | None = None
    """Settings for sampling, if the file has them; read by `generation.recipe`."""
    guide: "Model | None" = None
    """The weaker model that the recipe guides against, from the same file."""
    codec: AutoencoderKL | None = None
    """The autoencoder of a model that draws latents; of a model that is one, itself."""
    base: "Model | None" = None
    """The model that draws the small pictures of a cascade, from the same file."""
    _cast: dict[tuple[Any, ...], nn.Module] = field(default_factory=dict, init=False, repr=False)
    """The network with bf16 weights, by the state of the weights of which it is a copy."""

    @property
    def asked(self) -> Spec:
        """The classes or captions that a request for new images can name: of a cascade those of its base."""
        return self.spec if self.base is None else self.base.spec

    @cached_property
    def alone(self) -> "Model":
        """The model without its base: of a cascade the one that enlarges."""
        return self if self.base is None else replace(self, base=None)

    @cached_property
    def schedule(self) -> Process:
        """The forward process. It is the same object for all batches, so that grids and tables are kept for it."""
        require_diffusion(self.spec, "a forward process")
        return make_process(self.spec.schedule)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise from which one sample is drawn: that of an image or of a latent."""
        return self.spec.noise_shape

    def decoded(self, x: Tensor, *, precision: Precision = "float32") -> Tensor:
        """Return the images [N, C, *shape] of what diffusion draws, [N, *noise_shape]: of latents, decoded ones."""
        if self.codec is None:
            return x
        with autocast(x.device, precision):
            return self._in_layout(self.codec, precision).decode(x)

    def encoded(self, x: Tensor, *, precision: Precision = "float32") -> Tensor:
        """Return the images [N, C, *shape] as what diffusion draws, [N, *noise_shape]; see `decoded`."""
        if self.codec is None:
            return x
        with autocast(x.device, precision):
            return self._in_layout(self.codec, precision).encode(x)

    def drawn(self, z: Tensor, condition: object, *, precision: Precision = "float32") -> Tensor:
        """Return the images of latents [N, *noise_shape] in one evaluation, for methods vae and gan: [N, C, *shape]."""
        network = self._laid_out(precision)
        assert isinstance(network, DirectNetwork)
        with autocast(z.device, precision):
            return network.draw(z, condition)

    def estimator(self, *, precision: Precision = "float32") -> Callable[[Tensor, Tensor, object], Estimate]:
        """Return (x_t [N, C, *shape], t [N], condition) -> estimate of x_0, and of the variance if it was learned.

        x_0 is clipped only if training clipped it (`objective.bounded`). The estimator is that of the present weights;
        in bf16 it does not notice weights that are written through `.data`.
        """
        process, objective, trained = self.schedule, self.spec.objective, self._laid_out(precision)

        def estimate(x_t: Tensor, t: Tensor, condition: object) -> Estimate:
            def network(x: Tensor, c_noise: Tensor) -> Tensor:
                with autocast(x.device, precision):
                    return trained(x, c_noise, condition)

            return objectives.estimate(objective, network, process, x_t, t)

        return estimate

    def read_condition(self, condition: object, n: int, *, precision: Precision = "float32") -> object:
        """Return what the network reads of the condition of n images, which `estimator` takes instead of it."""
        network = self._laid_out(precision)
        if not isinstance(network, ConditionedNetwork):
            return condition
        with autocast(next(network.parameters()).device, precision):
            return network.read_condition(condition, n)

    def _laid_out(self, precision: Precision) -> nn.Module:
        """Return the network in its fastest memory layout; for bf16 with weights cast once, until they change."""
        network = self._in_layout(self.network, precision)
        if precision == "float32":
            return network
        weights = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in network.parameters()]
        state = (network.training, *weights)
        cast = self._cast.get(state)
        if cast is None:
            cast = with_cast_weights(network, torch.bfloat16)
            self._cast.clear()
            self._cast[state] = cast
        return cast

    @staticmethod
    def _in_layout(network: _N, precision: Precision) -> _N:
        return network.to(memory_format=memory_format(next(network.parameters()).device, precision))


def save(
    path: Path | str,
    *,
    network: nn.Module,
    spec: Spec,
    lineage: dict[str, Any],
    recipe: dict[str, Any] | None = None,
    guide: Model | None = None,
    codec: AutoencoderKL | None = None,
    base: "Model | None" = None,
) -> str:
    """Write a temporary file, flush it and rename it to `path`; return its sha256.

    The same content gives the same file. `codec` is the autoencoder of a model that draws latents, `base` the model
    that draws the pictures of a cascade. Raise UserError if
    writing fails; an existing file is then unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    header = Header(spec=spec, lineage=lineage, recipe=recipe)
    tensors = dict(network.state_dict())
    if guide is not None:
        header = replace(header, guide=Guide(spec=guide.spec, lineage=guide.lineage, sha256=guide.sha256))
        tensors |= {f"{_GUIDE}{name}": tensor for name, tensor in guide.network.state_dict().items()}
    if base is not None:
        assert base.recipe is not None
        found = Base(spec=base.spec, lineage=base.lineage, sha256=base.sha256, recipe=base.recipe)
        header = replace(header, base=found)
        tensors |= {f"{_BASE}{name}": tensor for name, tensor in base.network.state_dict().items()}
    if spec.draws_latents:
        assert codec is not None
        tensors |= {f"{CODEC}{name}": tensor for name, tensor in codec.state_dict().items()}
    # One key: safetensors writes several keys in random order, but the same model must give the same file.
    metadata = {FORMAT: json.dumps(asdict(header), sort_keys=True)}
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside, metadata)
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.replace(aside, path)
    except (SafetensorError, OSError) as error:
        aside.unlink(missing_ok=True)
        raise UserError(f"{path} could not be written ({error}); make space there and start again") from None
    return digest


def load(path: Path | str, device: torch.device | str = "cpu") -> Model:
    """Return the model in the file. Nothing in the file is executed, and memory use is limited by the file's size.

    A device without a number is the present one of its kind: safetensors would read "cuda" as the first GPU, in every
    process. Raise UserError if the file is missing, truncated, or not a model file, if its header describes no model or
    does not match its weights, or if weights are not finite.
    """
    path, device = Path(path), numbered(torch.device(device))
    if not path.is_file():
        raise UserError(f"{path} is not a model file; train one with `dvc repro`")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            if FORMAT not in metadata:
                raise UserError(
                    f"{path} has no {FORMAT!r} in its header; it was not written by this project, "
                    "so train one with `dvc repro`"
                )
            header, wanted = _header(path, metadata[FORMAT], tensors=len(found))
            for name in sorted(wanted.keys() | found.keys()):
                has = (found[name].get_dtype(), list(found[name].get_shape())) if name in found else None
                if has not in [(kind, wanted.get(name)) for kind in ("F32", "F16", "BF16")]:
                    raise UserError(
                        f"{path} has {has or 'nothing'} for {name}, but the network in its header has "
                        f"{wanted.get(name, 'nothing')} there; train or fetch it again"
                    )
            weights = {name: file.get_tensor(name) for name in found}
    except SafetensorError as error:
        raise UserError(
            f"{path} is not a complete safetensors file ({error}); build it again with `dvc repro`"
        ) from None
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise UserError(f"{path} has weights in {name} that are not finite; train or fetch it again")
    with open(path, "rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    guide = None
    if header.guide is not None:
        trained = _trained(build_network(header.guide.spec), _taken(weights, _GUIDE), device)
        guide = Model(trained, header.guide.spec, header.guide.lineage, header.guide.sha256)
    base = None
    if header.base is not None:
        drawn = _trained(build_network(header.base.spec), _taken(weights, _BASE), device)
        base = Model(drawn, header.base.spec, header.base.lineage, header.base.sha256, header.base.recipe)
    codec = None
    if header.spec.draws_latents:
        codec = _trained(build_codec(header.spec), _taken(weights, CODEC), device)
    network = _trained(build_network(header.spec), weights, device)
    if isinstance(network, AutoencoderKL):
        codec = network
    return Model(network, header.spec, header.lineage, digest, header.recipe, guide, codec, base)


def _header(path: Path, text: str, *, tensors: int) -> tuple[Header, dict[str, list[int]]]:
    """Return the header of a file with this number of tensors, and the expected shape of each tensor, by name.

    Raise UserError unless it describes a model that fits in the file. No memory is allocated for the networks.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        header = TypeAdapter(Header).validate_json(text, strict=True)
        shapes = shapes_of_weights(header.spec, tensors=tensors)
        if header.guide is not None:
            of_guide = shapes_of_weights(header.guide.spec, tensors=tensors)
            shapes |= {f"{_GUIDE}{name}": shape for name, shape in of_guide.items() if not name.startswith(CODEC)}
        if header.base is not None:
            of_base = shapes_of_weights(header.base.spec, tensors=tensors)
            shapes |= {f"{_BASE}{name}": shape for name, shape in of_base.items()}
    except WRONG as error:
        fault = fault_in(error, Header) if isinstance(error, ValidationError) else str(error)
        raise UserError(
            f"{path} has no valid model in its header ({' '.join(fault.split())[:200]}); train or fetch it again, or "
            "read it with the version of this project that wrote it"
        ) from None
    return header, {name: list(shape) for name, shape in shapes.items()}


def _taken(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove the tensors whose names begin with `prefix` and return them, by the rest of the name."""
    return {name.removeprefix(prefix): weights.pop(name) for name in list(weights) if name.startswith(prefix)}


def _trained(network: _N, weights: dict[str, Tensor], device: torch.device | str) -> _N:
    network = network.to(device)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)
