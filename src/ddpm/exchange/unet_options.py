"""Conversion between the options of diffusers' `UNet2DModel` and the arguments of this project's `UNet`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, NoReturn

import torch
from torch import nn

from ddpm.networks.blocks import SelfAttention
from ddpm.networks.unet import Convention, UNet, padded

MAX_LEVELS, MAX_WIDTH, MAX_SIZE = 12, 2**16, 4096
"""Bounds that protect the memory; known networks are far smaller."""


class ExchangeError(ValueError):
    """An option or tensor that the other side does not support; the message is one sentence that names it."""


@dataclass(frozen=True)
class _Option:
    """One option in config.json."""

    default: Any
    """Value if config.json does not have the option, from the signature of UNet2DModel."""
    known: Callable[[Any], bool]
    """Whether this project's network supports the value, without regard to the other options."""
    expected: str


def _one_of(*values: Any) -> _Option:
    """Return an option with these values, of which the first is the default."""
    return _Option(values[0], lambda value: value in values, " or ".join(map(repr, values)))


def _whole(default: int | None, low: int, high: int, *, optional: bool = False) -> _Option:
    return _Option(
        default,
        lambda value: low <= value <= high if type(value) is int else value is None and (optional or default is None),
        f"a whole number from {low} to {high}",
    )


def _share(default: float) -> _Option:
    return _Option(default, lambda value: type(value) in (int, float) and 0 <= value < 1, "a number from 0 to below 1")


def _listed(kind: str, known: Callable[[Any], bool], *default: Any) -> _Option:
    return _Option(
        default,
        lambda value: isinstance(value, list | tuple) and 1 <= len(value) <= MAX_LEVELS and all(map(known, value)),
        f"a list of 1 to {MAX_LEVELS} {kind}",
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _is_width(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_WIDTH


def _is_square(value: Any) -> bool:
    sides = value if isinstance(value, list | tuple) else [value]
    return len(sides) > 0 and all(type(side) is int and side == sides[0] and 1 <= side <= MAX_SIZE for side in sides)


OPTIONS = {
    "sample_size": _Option(None, _is_square, f"one number of pixels for height and width, at most {MAX_SIZE}"),
    "in_channels": _whole(3, 1, MAX_WIDTH),
    "out_channels": _whole(3, 1, MAX_WIDTH),
    "center_input_sample": _one_of(False),
    "time_embedding_type": _one_of("positional"),
    "time_embedding_dim": _whole(None, 1, 4 * MAX_WIDTH),
    "freq_shift": _whole(0, 0, 1),
    "flip_sin_to_cos": _one_of(True, False),
    "down_block_types": _listed("names", _is_name, "DownBlock2D", *["AttnDownBlock2D"] * 3),
    "mid_block_type": _one_of("UNetMidBlock2D"),
    "up_block_types": _listed("names", _is_name, *["AttnUpBlock2D"] * 3, "UpBlock2D"),
    "block_out_channels": _listed(f"whole numbers from 1 to {MAX_WIDTH}", _is_width, 224, 448, 672, 896),
    "layers_per_block": _whole(2, 1, 64),
    "mid_block_scale_factor": _one_of(1),
    "downsample_padding": _one_of(1, 0),
    "downsample_type": _one_of("conv", "resnet", None),
    "upsample_type": _one_of("conv", "resnet", None),
    "dropout": _share(0.0),
    "act_fn": _one_of("silu", "swish"),
    "attention_head_dim": _whole(8, 1, MAX_WIDTH, optional=True),
    "norm_num_groups": _whole(32, 1, MAX_WIDTH),
    "attn_norm_num_groups": _whole(None, 1, MAX_WIDTH),
    "norm_eps": _share(1e-5),
    "resnet_time_scale_shift": _one_of("default", "scale_shift"),
    "add_attention": _one_of(True, False),
    "class_embed_type": _one_of(None),
    "num_class_embeds": _whole(None, 1, 2**20),
    "num_train_timesteps": _Option(None, lambda value: True, "anything, since the network does not read it"),
}
# Further keys that `EMAModel.save_pretrained` writes into config.json; they describe the moving average.
OF_EMA = {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"}


def from_theirs(config: Mapping[str, Any], *, null_label: bool) -> dict[str, Any]:
    """Return the arguments of `UNet`. Raises ExchangeError."""
    options = _checked(config)
    widths, groups, head = (
        list(options["block_out_channels"]),
        options["norm_num_groups"],
        options["attention_head_dim"],
    )
    width, adds = widths[0], options["resnet_time_scale_shift"] == "default"
    has_attention, resample = _levels(options)
    middle = "normalised" if adds or options["attn_norm_num_groups"] else "plain"
    if not options["add_attention"]:
        middle = "none"
    attention_channels = [c for c, here in zip(widths, has_attention, strict=True) if here] + [widths[-1]] * (
        middle != "none"
    )
    for key, holds, expected in (
        ("block_out_channels", all(c % width == width % 2 == 0 for c in widths), "even, whole multiples of the first"),
        ("norm_num_groups", not any(c % groups for c in widths), f"a divisor of every one of {widths}"),
        ("time_embedding_dim", options["time_embedding_dim"] in (None, 4 * width), f"null or {4 * width}"),
        ("attn_norm_num_groups", options["attn_norm_num_groups"] in (None, groups), "null or norm_num_groups"),
        (
            "attention_head_dim",
            not head or not any(c % head for c in attention_channels),
            f"a divisor of {attention_channels}",
        ),
    ):
        if not holds:
            _refuse(options, key, expected)
    size = options["sample_size"] if isinstance(options["sample_size"], int) else options["sample_size"][0]
    resolution = padded(size, 2 ** (len(widths) - 1))
    return {
        "channels": options["in_channels"],
        "out_channels": options["out_channels"],
        "size": size,
        "classes": (options["num_class_embeds"] or 0) - null_label,
        "width": width,
        "multipliers": tuple(c // width for c in widths),
        "blocks": options["layers_per_block"],
        "attention": tuple(resolution >> level for level, here in enumerate(has_attention) if here),
        "head_channels": head or max(widths),
        "dropout": float(options["dropout"]),
        "embedding": "add" if adds else "scale_shift",
        "resample": resample,
        "groups": groups,
        "convention": Convention(
            norm_eps=options["norm_eps"],
            frequency_shift=options["freq_shift"],
            strided_padding="both" if options["downsample_padding"] else "after",
            middle_attention=middle,
        ),
    }


def _checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options with defaults filled in, each checked on its own. Raises ExchangeError."""
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        _refuse(config, "_class_name", "UNet2DModel")
    given = {key: value for key, value in config.items() if not key.startswith("_") and key not in OF_EMA}
    options = {key: option.default for key, option in OPTIONS.items()} | given
    for key, value in options.items():
        if key not in OPTIONS:
            _refuse(options, key, "only known options of UNet2DModel")
        if not OPTIONS[key].known(value):
            _refuse(options, key, OPTIONS[key].expected)
    return options


def _refuse(options: Mapping[str, Any], key: str, expected: str) -> NoReturn:
    value = list(options[key]) if isinstance(options[key], tuple) else options[key]
    raise ExchangeError(f"{key} is {repr(value)[:100]}, expected {expected}")


def _levels(options: Mapping[str, Any]) -> tuple[list[bool], str]:
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


def _blocks(options: Mapping[str, Any], way: str) -> list[tuple[bool, str]]:
    """Return for each block on the way `Down` or `Up` whether it has attention, and how it resamples."""
    option = f"{way.lower()}_block_types"
    types = {
        f"{way}Block2D": (False, "conv"),
        f"Resnet{way}sampleBlock2D": (False, "residual"),
        f"Attn{way}Block2D": (True, "residual" if options[f"{way.lower()}sample_type"] == "resnet" else "conv"),
    }
    names = [name.removeprefix("UNetRes") for name in options[option]]
    if unknown := [name for name in names if name not in types]:
        raise ExchangeError(f"{option} has {unknown[0]}, but this project's U-Net supports only {', '.join(types)}")
    if len(names) != len(options["block_out_channels"]):
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
            f"diffusers has one number; train with network.groups set, for example to {min(norms)}",
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
        **{key: option.default for key, option in OPTIONS.items()},
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
