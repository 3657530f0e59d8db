"""Autoencoders in folders that diffusers' `AutoencoderKL.save_pretrained` writes and `from_pretrained` reads.

The folder is the autoencoder's own (config.json beside the weights) or a pipeline's, which has it in vae/. diffusers is
not needed.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from ddpm import model_file
from ddpm.errors import UserError
from ddpm.exchange.read_safely import WEIGHTS, options_in, require_new, shapes_in, weights_in
from ddpm.exchange.unet_exchange import with_present_names
from ddpm.exchange.unet_options import LEVELS, Blocks, ExchangeError, Size, Width
from ddpm.files import write_json
from ddpm.model_spec import Spec, build_codec, shapes_of_weights, spec_of_autoencoder
from ddpm.networks.settings import Codec
from ddpm.settings import section, sentence_of


@section
class Options:
    """config.json: defaults from the signature of AutoencoderKL, and the values that this project supports."""

    in_channels: Width = 3
    out_channels: Width = 3
    down_block_types: Annotated[tuple[Literal["DownEncoderBlock2D"], ...], LEVELS] = ("DownEncoderBlock2D",)
    up_block_types: Annotated[tuple[Literal["UpDecoderBlock2D"], ...], LEVELS] = ("UpDecoderBlock2D",)
    block_out_channels: Annotated[tuple[Width, ...], LEVELS] = (64,)
    layers_per_block: Blocks = 1
    act_fn: Literal["silu", "swish"] = "silu"
    latent_channels: Width = 4
    norm_num_groups: Width = 32
    sample_size: Size = 32
    scaling_factor: Annotated[float, Field(gt=0)] = 0.18215
    shift_factor: float | None = None
    latents_mean: None = None
    latents_std: None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True


def import_autoencoder(folder: Path, out: Path, *, size: int | None = None) -> tuple[Spec, str]:
    """Write the folder's autoencoder as a model file of method autoencoder at `out`; return its spec and sha256.

    `size` is the height and width of the images, None that of config.json; the weights suit any.

    Raises UserError.
    """
    place = next((each for each in (folder / "vae", folder) if (each / "config.json").is_file()), None)
    if place is None:
        raise UserError(f"{folder} has no config.json and no vae/config.json; name a folder written by diffusers")
    options, weights = place / "config.json", place / WEIGHTS
    shapes, config = shapes_in(weights), options_in(options)
    try:
        spec = _spec(config, size=size)
        _require_shapes(spec, with_present_names(shapes))
    except ExchangeError as error:
        raise UserError(f"{options}: {error}") from None
    network = build_codec(spec)
    network.load_state_dict(with_present_names(weights_in(weights)))
    lineage = {"imported_from": "diffusers", "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    return spec, model_file.save(out, network=network, spec=spec, lineage=lineage)


def export_autoencoder(model: model_file.Model, folder: Path) -> dict[str, Any]:
    """Write the autoencoder of the model as a folder for `AutoencoderKL.from_pretrained`; return its config.

    The model is an autoencoder or one that draws latents. Raises UserError for another one.
    """
    require_new(folder)
    spec, codec = model.spec, model.codec
    if codec is None or spec.codec is None:
        raise UserError("this model has no autoencoder; export it with `ddpm export-unet`")
    config = _config(spec, spec.codec)
    aside = folder.with_name(folder.name + ".part")
    write_json(aside / "config.json", config)
    state = {name: tensor.cpu().contiguous() for name, tensor in codec.state_dict().items()}
    save_file(state, aside / WEIGHTS, {"format": "pt"})
    os.replace(aside, folder)
    return config


def _spec(config: Mapping[str, Any], *, size: int | None) -> Spec:
    """Return the specification of the autoencoder of config.json. Raises ExchangeError."""
    options = _read(config)
    levels = len(options.block_out_channels)
    for key, holds, expected in (
        ("out_channels", options.out_channels == options.in_channels, f"in_channels ({options.in_channels})"),
        ("down_block_types", len(options.down_block_types) == levels, "one for each of block_out_channels"),
        ("up_block_types", len(options.up_block_types) == levels, "one for each of block_out_channels"),
        (
            "use_post_quant_conv",
            options.use_post_quant_conv == options.use_quant_conv,
            f"use_quant_conv ({json.dumps(options.use_quant_conv)})",
        ),
    ):
        if not holds:
            raise ExchangeError(f"{key} is {json.dumps(getattr(options, key))}, expected {expected}")
    try:
        codec = Codec(
            latent_channels=options.latent_channels,
            widths=options.block_out_channels,
            blocks=options.layers_per_block,
            groups=options.norm_num_groups,
            attention=options.mid_block_add_attention,
            quant=options.use_quant_conv,
            shift=options.shift_factor or 0.0,
            scale=options.scaling_factor,
        )
        return spec_of_autoencoder(channels=options.in_channels, size=size or options.sample_size, codec=codec)
    except ValueError as error:
        raise ExchangeError(f"its autoencoder has no settings here, because {error}") from None


def _read(config: Mapping[str, Any]) -> Options:
    """Return all options with defaults filled in, each checked on its own. Raises ExchangeError."""
    if config.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        raise ExchangeError(f"_class_name is {config['_class_name']!r}, expected 'AutoencoderKL'")
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        return TypeAdapter(Options).validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        raise ExchangeError(sentence_of(error, Options)) from None


def _require_shapes(spec: Spec, found: Mapping[str, Tensor]) -> None:
    """Raise ExchangeError unless the tensors are those of the autoencoder; no memory is allocated for it."""
    try:
        shapes = shapes_of_weights(spec, tensors=len(found))
    except (ValueError, ArithmeticError, TypeError, RuntimeError) as error:
        raise ExchangeError(f"its autoencoder does not fit the weights ({error})") from None
    wanted = {name: list(shape) for name, shape in shapes.items()}
    has = {name: list(tensor.shape) for name, tensor in found.items()}
    for name in sorted(wanted.keys() | has.keys()):
        if has.get(name) != wanted.get(name):
            raise ExchangeError(
                f"the weights have {has.get(name, 'nothing')} for {name}, but config.json requires "
                f"{wanted.get(name, 'nothing')}; both must belong to the same network"
            )


def _config(spec: Spec, codec: Codec) -> dict[str, Any]:
    """Return the content of config.json."""
    levels = len(codec.widths)
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": spec.channels,
        "out_channels": spec.channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": list(codec.widths),
        "layers_per_block": codec.blocks,
        "act_fn": "silu",
        "latent_channels": codec.latent_channels,
        "norm_num_groups": codec.groups,
        "sample_size": spec.size,
        "scaling_factor": codec.scale,
        "shift_factor": codec.shift,
        "use_quant_conv": codec.quant,
        "use_post_quant_conv": codec.quant,
        "mid_block_add_attention": codec.attention,
    }
