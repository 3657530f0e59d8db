"""Conversion between the options of diffusers' `UNet2DModel` and the arguments of this project's `UNet`."""

import json
from collections.abc import Mapping
from dataclasses import fields
from inspect import signature
from typing import Annotated, Any, Literal, NoReturn

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import nn

from ddpm.networks.blocks import SelfAttention
from ddpm.networks.settings import Convention
from ddpm.networks.unet import UNet, padded
from ddpm.settings import section, sentence_of

# Bounds that protect the memory; known networks are far smaller.
Size = Annotated[int, Field(ge=1, le=4096)]
Count = Annotated[int, Field(ge=1, le=2**20)]
Width = Annotated[int, Field(ge=1, le=2**16)]
Blocks = Annotated[int, Field(ge=1, le=64)]
Share = Annotated[float, Field(ge=0, lt=1)]
LEVELS = Field(min_length=1, max_length=12)
Resampling = Literal["conv", "resnet", None]


class ExchangeError(ValueError):
    """An option or tensor that the other side does not support; the message is one sentence that names it."""


@section
class Options:
    """config.json: defaults from the signature of UNet2DModel, and the values that this project's U-Net supports."""

    sample_size: Size
    in_channels: Width = 3
    out_channels: Width = 3
    center_input_sample: Literal[False] = False
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: Count | None = None
    freq_shift: Literal[0, 1] = 0
    flip_sin_to_cos: bool = True
    down_block_types: Annotated[tuple[str, ...], LEVELS] = ("DownBlock2D", *["AttnDownBlock2D"] * 3)
    mid_block_type: Literal["UNetMidBlock2D"] = "UNetMidBlock2D"
    up_block_types: Annotated[tuple[str, ...], LEVELS] = (*["AttnUpBlock2D"] * 3, "UpBlock2D")
    block_out_channels: Annotated[tuple[Width, ...], LEVELS] = (224, 448, 672, 896)
    layers_per_block: Blocks = 2
    mid_block_scale_factor: Literal[1] = 1
    downsample_padding: Literal[0, 1] = 1
    downsample_type: Resampling = "conv"
    upsample_type: Resampling = "conv"
    dropout: Share = 0.0
    act_fn: Literal["silu", "swish"] = "silu"
    attention_head_dim: Width | None = 8
    norm_num_groups: Width = 32
    attn_norm_num_groups: Width | None = None
    norm_eps: Share = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    class_embed_type: None = None
    num_class_embeds: Count | None = None
    num_train_timesteps: Any = None


# Further keys that `EMAModel.save_pretrained` writes into config.json; they describe the moving average.
OF_EMA = {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"}


def from_theirs(config: Mapping[str, Any], *, null_label: bool) -> dict[str, Any]:
    """Return the arguments of `UNet`. Raises ExchangeError."""
    options = _read(config)
    widths, groups, head = list(options.block_out_channels), options.norm_num_groups, options.attention_head_dim
    width, size, adds = widths[0], options.sample_size, options.resnet_time_scale_shift == "default"
    has_attention, resample = _levels(options)
    middle: Literal["normalised", "plain", "none"]
    middle = "normalised" if adds or options.attn_norm_num_groups else "plain"
    if not options.add_attention:
        middle = "none"
    attention_channels = [c for c, here in zip(widths, has_attention, strict=True) if here] + [widths[-1]] * (
        middle != "none"
    )
    for key, holds, expected in (
        ("block_out_channels", all(c % width == width % 2 == 0 for c in widths), "even, whole multiples of the first"),
        ("norm_num_groups", not any(c % groups for c in widths), f"a divisor of every one of {widths}"),
        ("time_embedding_dim", options.time_embedding_dim in (None, 4 * width), f"null or {4 * width}"),
        ("attn_norm_num_groups", options.attn_norm_num_groups in (None, groups), "null or norm_num_groups"),
        (
            "attention_head_dim",
            not head or not any(c % head for c in attention_channels),
            f"a divisor of {attention_channels}",
        ),
    ):
        if not holds:
            _refuse(options, key, expected)
    resolution = padded(size, 2 ** (len(widths) - 1))
    return {
        "channels": options.in_channels,
        "out_channels": options.out_channels,
        "size": size,
        "classes": (options.num_class_embeds or 0) - null_label,
        "width": width,
        "multipliers": tuple(c // width for c in widths),
        "blocks": options.layers_per_block,
        "attention": tuple(resolution >> level for level, here in enumerate(has_attention) if here),
        "head_channels": head or max(widths),
        "dropout": float(options.dropout),
        "embedding": "add" if adds else "scale_shift",
        "resample": resample,
        "groups": groups,
        "convention": Convention(
            norm_eps=options.norm_eps,
            frequency_shift=options.freq_shift,
            strided_padding="both" if options.downsample_padding else "after",
            middle_attention=middle,
        ),
    }


def _read(config: Mapping[str, Any]) -> Options:
    """Return all options with defaults filled in, each checked on its own. Raises ExchangeError."""
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ExchangeError(f"_class_name is {config['_class_name']!r}, expected 'UNet2DModel'")
    given = {key: value for key, value in config.items() if not key.startswith("_") and key not in OF_EMA}
    size = given.get("sample_size")
    if isinstance(size, list | tuple) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    try:
        return TypeAdapter(Options).validate_json(json.dumps(given | {"sample_size": size}), strict=True)
    except ValidationError as error:
        raise ExchangeError(sentence_of(error, Options)) from None


def _refuse(options: Options, key: str, expected: str) -> NoReturn:
    value = getattr(options, key)
    raise ExchangeError(f"{key} is {list(value) if isinstance(value, tuple) else value}, expected {expected}")


def _levels(options: Options) -> tuple[list[bool], str]:
    """Return whether each level has attention, finest first, and how the resolution changes between levels."""
    down, up = _blocks(options, "Down"), _blocks(options, "Up")
    has_attention = [here for here, _ in down]
    if has_attention != [here for here, _ in reversed(up)]:
        _refuse(options, "up_block_types", "attention at the levels of down_block_types")
    resample = {how for _, how in down[:-1] + up[:-1]}  # the last block of each does not resample
    if len(resample) > 1:
        raise ExchangeError(
            "down_block_types, up_block_types, downsample_type and upsample_type resample by convolutions and by "
            "residual blocks, expected one kind"
        )
    return has_attention, resample.pop() if resample else "residual"


def _blocks(options: Options, way: str) -> list[tuple[bool, str]]:
    """Return for each block on the way `Down` or `Up` whether it has attention, and how it resamples."""
    option = f"{way.lower()}_block_types"
    resampling = options.downsample_type if way == "Down" else options.upsample_type
    types = {
        f"{way}Block2D": (False, "conv"),
        f"Resnet{way}sampleBlock2D": (False, "residual"),
        f"Attn{way}Block2D": (True, "residual" if resampling == "resnet" else "conv"),
    }
    names = [name.removeprefix("UNetRes") for name in getattr(options, option)]
    if unknown := [name for name in names if name not in types]:
        raise ExchangeError(f"{option} has {unknown[0]}, but this project's U-Net supports only {', '.join(types)}")
    if len(names) != len(options.block_out_channels):
        raise ExchangeError(f"{option} has {len(names)} entries, expected one for each of block_out_channels")
    return [types[name] for name in names]


def to_theirs(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of config.json. Raises ExchangeError."""
    with torch.device("meta"):
        network = UNet(**architecture)
    ours = {name: argument.default for name, argument in signature(UNet).parameters.items()} | dict(architecture)
    multipliers, size, classes, convention = (ours[key] for key in ("multipliers", "size", "classes", "convention"))
    norms = {norm.num_groups: norm.num_channels for norm in network.modules() if isinstance(norm, nn.GroupNorm)}
    groups = next(iter(norms))
    heads = {(m.heads, m.channels // m.heads) for m in network.modules() if isinstance(m, SelfAttention)}
    one_head = all(number == 1 for number, _ in heads)
    head_dims = sorted({dim for _, dim in heads})
    adds, middle = ours["embedding"] == "add", convention.middle_attention
    for holds, sentence in (
        (not ours["picture"], "condition is image, for which the pipelines of diffusers have other inputs"),
        (ours["text"] is None, "condition is text, for which diffusers has another network than UNet2DModel"),
        (ours["patch"] == 1, f"patch is {ours['patch']}, but in diffusers a position is one pixel"),
        (multipliers[0] == 1, f"multipliers is {list(multipliers)}, but in diffusers the first is always 1"),
        (
            size % network.factor == 0,
            f"size is {size}, but without padding, as in diffusers, {len(multipliers)} resolutions need a multiple of "
            f"{network.factor}",
        ),
        (
            len(norms) == 1,
            f"groups is null, which here means {' and '.join(f'{n} for {c} channels' for n, c in norms.items())}, but "
            f"diffusers has one number; only a new training, with network.groups {min(norms)}, changes that",
        ),
        (
            one_head or len(head_dims) == 1,
            f"head_channels makes heads of {' and '.join(map(str, head_dims))} channels, but diffusers has one number "
            "for all; train with a divisor of the channels of every level with attention",
        ),
        (
            middle != "plain" or not adds,
            "middle_attention is plain, which diffusers supports only with embedding scale_shift",
        ),
    ):
        if not holds:
            raise ExchangeError(sentence)

    has_attention = [size >> level in ours["attention"] for level in range(len(multipliers))]
    residual = ours["resample"] == "residual"
    down, up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if residual else ("DownBlock2D", "UpBlock2D")
    return {
        "_class_name": "UNet2DModel",
        **{field.name: field.default for field in fields(Options)},
        "sample_size": size,
        "in_channels": ours["channels"],
        "out_channels": ours["out_channels"] or ours["channels"],
        "freq_shift": convention.frequency_shift,
        "down_block_types": ["AttnDownBlock2D" if here else down for here in has_attention],
        "up_block_types": ["AttnUpBlock2D" if here else up for here in reversed(has_attention)],
        "block_out_channels": [multiplier * ours["width"] for multiplier in multipliers],
        "layers_per_block": ours["blocks"],
        "downsample_padding": int(convention.strided_padding == "both"),
        "downsample_type": "resnet" if residual else "conv",
        "upsample_type": "resnet" if residual else "conv",
        "dropout": ours["dropout"],
        "attention_head_dim": None if one_head else head_dims[0],
        "norm_num_groups": groups,
        "attn_norm_num_groups": groups if middle == "normalised" and not adds else None,
        "norm_eps": convention.norm_eps,
        "resnet_time_scale_shift": "default" if adds else "scale_shift",
        "add_attention": middle != "none",
        "num_class_embeds": classes + 1 if classes else None,
    }
