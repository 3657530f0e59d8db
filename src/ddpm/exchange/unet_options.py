"""What the options of diffusers' `UNet2DModel` mean as arguments of this project's `UNet`, and back."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ddpm.exchange.unet_weights import ExchangeError
from ddpm.networks.blocks import SelfAttention
from ddpm.networks.unet import Convention, UNet, padded

# What an option means that config.json leaves out: the signature of UNet2DModel.
DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
# Options of which this network knows only these values.
ONLY: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "act_fn": ("silu", "swish"),
    "class_embed_type": (None,),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "downsample_padding": (0, 1),
    "downsample_type": ("conv", "resnet", None),
    "upsample_type": ("conv", "resnet", None),
}
# Of what kind the others are, and between which bounds: beyond them no network has been seen, and memory ends.
WHOLE: dict[str, tuple[int, int]] = {
    "in_channels": (1, 2**16),
    "out_channels": (1, 2**16),
    "time_embedding_dim": (1, 2**20),
    "freq_shift": (0, 1),
    "layers_per_block": (1, 64),
    "attention_head_dim": (1, 2**16),
    "norm_num_groups": (1, 2**16),
    "attn_norm_num_groups": (1, 2**16),
    "num_class_embeds": (1, 2**20),
}
REAL: dict[str, tuple[float, float]] = {"dropout": (0.0, 1.0), "norm_eps": (0.0, 1.0)}
TRUTH = ("flip_sin_to_cos", "add_attention")
NAMES = ("down_block_types", "up_block_types")
OR_NONE = {key for key, value in DEFAULTS.items() if value is None} | {"attention_head_dim"}
MAX_LEVELS = 12
MAX_WIDTH = 2**16
MAX_SIZE = 4096
# What `EMAModel.save_pretrained` writes among the options; it says how the average was made.
OF_EMA = {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"}
EMBEDDINGS = {"default": "add", "scale_shift": "scale_shift"}
PADDINGS = {1: "both", 0: "after"}


def from_theirs(config: Mapping[str, Any], *, null_label: bool) -> dict[str, Any]:
    """The arguments of `UNet`. Raises ExchangeError."""
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ExchangeError(f"_class_name is {config['_class_name']}, expected UNet2DModel")
    given = {key: value for key, value in config.items() if not key.startswith("_") and key not in OF_EMA}
    for key, value in given.items():
        if key not in DEFAULTS:
            raise ExchangeError(f"{key} is {value!r}, but that is no option of UNet2DModel known here")
        if key in ONLY and value not in ONLY[key]:
            known = " or ".join(repr(one) for one in ONLY[key])
            raise ExchangeError(f"{key} is {value!r}, but this project's U-Net knows only {known}")
        if value is not None or key not in OR_NONE:
            _require_kind(key, value)
    told = DEFAULTS | given

    widths, groups = tuple(told["block_out_channels"]), told["norm_num_groups"]
    width, size = widths[0], _size(told["sample_size"])
    if width % 2 or any(c % width for c in widths):
        raise ExchangeError(f"block_out_channels is {list(widths)}, expected even, whole multiples of the first")
    if not groups or any(c % groups for c in widths):
        raise ExchangeError(f"norm_num_groups is {groups}, expected a divisor of every one of {list(widths)}")
    if told["time_embedding_dim"] not in (None, 4 * width):
        raise ExchangeError(f"time_embedding_dim is {told['time_embedding_dim']}, expected null or {4 * width}")

    attends, resample = _levels(told)
    middle = _middle_attention(told)
    attending = [c for c, here in zip(widths, attends, strict=True) if here] + [widths[-1]] * (middle != "none")
    head = told["attention_head_dim"] or max(widths)
    if told["attention_head_dim"] and any(c % head for c in attending):
        raise ExchangeError(f"attention_head_dim is {head}, expected a divisor of {attending}")
    resolution = padded(size, 2 ** (len(widths) - 1))
    classes = told["num_class_embeds"] or 0
    return {
        "channels": told["in_channels"],
        "out_channels": told["out_channels"],
        "size": size,
        "classes": classes - 1 if null_label else classes,
        "width": width,
        "multipliers": tuple(c // width for c in widths),
        "blocks": told["layers_per_block"],
        "attention": tuple(resolution >> level for level, here in enumerate(attends) if here),
        "head_channels": head,
        "dropout": float(told["dropout"]),
        "embedding": EMBEDDINGS[told["resnet_time_scale_shift"]],
        "resample": resample,
        "groups": groups,
        "convention": Convention(
            norm_eps=told["norm_eps"],
            frequency_shift=told["freq_shift"],
            strided_padding=PADDINGS[told["downsample_padding"]],
            middle_attention=middle,
        ),
    }


def _require_kind(key: str, value: Any) -> None:
    """Raises ExchangeError for a value that the option cannot have, whatever the other options are."""
    expected = None
    if key in WHOLE:
        low, high = WHOLE[key]
        if type(value) is not int or not low <= value <= high:
            expected = f"a whole number from {low} to {high}"
    elif key in REAL:
        least, most = REAL[key]
        if type(value) not in (int, float) or not least <= value < most:
            expected = f"a number from {least:g} to below {most:g}"
    elif key in TRUTH and type(value) is not bool:
        expected = "true or false"
    elif key in NAMES or key == "block_out_channels":
        fitting = isinstance(value, list | tuple) and 1 <= len(value) <= MAX_LEVELS
        if key in NAMES and not (fitting and all(isinstance(one, str) for one in value)):
            expected = f"a list of 1 to {MAX_LEVELS} names"
        if key not in NAMES and not (fitting and all(type(one) is int and 1 <= one <= MAX_WIDTH for one in value)):
            expected = f"a list of 1 to {MAX_LEVELS} whole numbers from 1 to {MAX_WIDTH}"
    if expected:
        raise ExchangeError(f"{key} is {repr(value)[:100]}, expected {expected}")


def _size(sample_size: Any) -> int:
    sides = list(sample_size) if isinstance(sample_size, list | tuple) else [sample_size]
    if not sides or any(type(side) is not int or side != sides[0] or not 1 <= side <= MAX_SIZE for side in sides):
        raise ExchangeError(
            f"sample_size is {repr(sample_size)[:100]}, expected one number of pixels for height and width, at most "
            f"{MAX_SIZE}"
        )
    return int(sides[0])


def _levels(told: Mapping[str, Any]) -> tuple[list[bool], str]:
    """Whether each level attends, finest first; and how one level becomes the next."""
    kinds = {"conv": "conv", "resnet": "residual", None: "conv"}
    down_types = {
        "DownBlock2D": (False, "conv"),
        "ResnetDownsampleBlock2D": (False, "residual"),
        "AttnDownBlock2D": (True, kinds[told["downsample_type"]]),
    }
    up_types = {
        "UpBlock2D": (False, "conv"),
        "ResnetUpsampleBlock2D": (False, "residual"),
        "AttnUpBlock2D": (True, kinds[told["upsample_type"]]),
    }
    down = _known("down_block_types", told["down_block_types"], down_types)
    up = _known("up_block_types", told["up_block_types"], up_types)
    if len(down) != len(told["block_out_channels"]):
        raise ExchangeError(f"down_block_types has {len(down)} entries, expected one for each of block_out_channels")
    attends = [here for here, _ in down]
    if attends != [here for here, _ in reversed(up)]:
        raise ExchangeError(
            f"up_block_types is {list(told['up_block_types'])}, expected attention at the levels of down_block_types"
        )
    resample = {how for _, how in down[:-1] + up[:-1]}  # the last of each does not resample
    if len(resample) > 1:
        raise ExchangeError(
            "down_block_types, up_block_types, downsample_type and upsample_type together resample here by a "
            "convolution and there by a residual block, expected one kind"
        )
    return attends, resample.pop() if resample else "residual"


def _known(option: str, names: Iterable[str], types: Mapping[str, tuple[bool, str]]) -> list[tuple[bool, str]]:
    names = [name.removeprefix("UNetRes") for name in names]
    for name in names:
        if name not in types:
            raise ExchangeError(f"{option} has {name}, but this project's U-Net knows only {', '.join(types)}")
    return [types[name] for name in names]


def _middle_attention(told: Mapping[str, Any]) -> str:
    if not told["add_attention"]:
        return "none"
    groups = told["attn_norm_num_groups"]
    if groups is None:
        return "normalised" if told["resnet_time_scale_shift"] == "default" else "plain"
    if groups != told["norm_num_groups"]:
        raise ExchangeError(f"attn_norm_num_groups is {groups}, expected null or norm_num_groups")
    return "normalised"


def to_theirs(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json holds. Raises ExchangeError."""
    with torch.device("meta"):
        network = UNet(**architecture)
    convention = architecture.get("convention", Convention())
    if architecture.get("patch", 1) != 1:
        raise ExchangeError(f"patch is {architecture['patch']}, but in diffusers a position is one pixel")
    multipliers, size, classes = architecture["multipliers"], architecture["size"], architecture["classes"]
    widths = [multiplier * architecture["width"] for multiplier in multipliers]
    if multipliers[0] != 1:
        raise ExchangeError(f"multipliers is {list(multipliers)}, but in diffusers the first is always 1")
    if size % network.factor:
        raise ExchangeError(
            f"size is {size}, but without padding, as in diffusers, {len(multipliers)} resolutions need a multiple "
            f"of {network.factor}"
        )
    normed = {norm.num_groups: norm.num_channels for norm in network.modules() if isinstance(norm, nn.GroupNorm)}
    if len(normed) > 1:
        some = " and ".join(f"{groups} for {channels} channels" for groups, channels in list(normed.items())[:2])
        raise ExchangeError(
            f"groups is null, which here means {some}, but diffusers has one number; train with network.groups "
            f"set, to {min(normed)} for example"
        )
    (groups,) = normed

    attends = [size >> level in architecture["attention"] for level in range(len(widths))]
    residual = architecture.get("resample", "residual") == "residual"
    down, up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if residual else ("DownBlock2D", "UpBlock2D")
    add = architecture.get("embedding", "scale_shift") == "add"
    middle = convention.middle_attention
    if middle == "plain" and add:
        raise ExchangeError("middle_attention is plain, which diffusers has with embedding scale_shift only")
    return {
        "_class_name": "UNet2DModel",
        **DEFAULTS,
        "sample_size": size,
        "in_channels": architecture["channels"],
        "out_channels": architecture.get("out_channels") or architecture["channels"],
        "freq_shift": convention.frequency_shift,
        "down_block_types": ["AttnDownBlock2D" if here else down for here in attends],
        "up_block_types": ["AttnUpBlock2D" if here else up for here in reversed(attends)],
        "block_out_channels": widths,
        "layers_per_block": architecture["blocks"],
        "downsample_padding": 1 if convention.strided_padding == "both" else 0,
        "downsample_type": "resnet" if residual else "conv",
        "upsample_type": "resnet" if residual else "conv",
        "dropout": architecture["dropout"],
        "attention_head_dim": _head_dim(network),
        "norm_num_groups": groups,
        "attn_norm_num_groups": groups if middle == "normalised" and not add else None,
        "norm_eps": convention.norm_eps,
        "resnet_time_scale_shift": "default" if add else "scale_shift",
        "add_attention": middle != "none",
        "num_class_embeds": classes + 1 if classes else None,
    }


def _head_dim(network: UNet) -> int | None:
    """Channels per head; None: one head, whatever the channels."""
    heads = {(m.heads, m.channels) for m in network.modules() if isinstance(m, SelfAttention)}
    dims = {channels // number for number, channels in heads}
    if all(number == 1 for number, _ in heads):
        return None
    if len(dims) > 1:
        raise ExchangeError(
            f"head_channels makes heads of {' and '.join(map(str, sorted(dims)))} channels, but diffusers has one "
            "number for all; train with a divisor of every width that attends"
        )
    return dims.pop()
