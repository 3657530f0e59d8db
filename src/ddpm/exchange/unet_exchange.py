"""Conversion between this project's U-Net and `UNet2DModel` of diffusers: options and weights, as plain values.

The converted network gives the same output up to rounding for the same t and labels. (The steps of a chain start at 0
in diffusers and at 1 here: see `with_time_shifted`.) diffusers is not needed. "Theirs" is the side of diffusers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Size, Tensor

from ddpm.exchange.unet_options import ExchangeError, from_theirs, to_theirs
from ddpm.networks.blocks import timestep_frequencies
from ddpm.networks.settings import CONVENTION
from ddpm.networks.shapes import shapes_of
from ddpm.networks.unet import AUGMENTATION, UNet

Weights = dict[str, Tensor]

OUTER = {
    "conv_in": "conv_in",
    "time.0": "time_embedding.linear_1",
    "time.2": "time_embedding.linear_2",
    "label": "class_embedding",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
# Their names of the layers in a block; other layers have the same names.
LAYERS: dict[str, tuple[str, ...]] = {
    "emb": ("time_emb_proj",),
    "skip": ("conv_shortcut",),
    "norm": ("group_norm",),
    "qkv": ("to_q", "to_k", "to_v"),  # one convolution here, three linear layers there
    "proj": ("to_out.0",),
}
# Names in files of the first versions of diffusers, and the names today.
FORMER = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def from_diffusers(
    config: Mapping[str, Any], state: Mapping[str, Tensor], *, null_label: bool = False
) -> tuple[dict[str, Any], Weights]:
    """Return the arguments of `UNet` and its weights (float32) from config.json and the tensors of the weights' file.

    `null_label`: the last class means "no label". Otherwise all labels are classes, and "no label" adds zero to the
    embedding, for which such a network was not trained.

    Raises ExchangeError.
    """
    architecture = from_theirs(config, null_label=null_label)
    left = with_present_names(state)
    blocks, read = _blocks(architecture), {}
    for name, shape in shapes_of(lambda: UNet(**architecture)).items():
        theirs = _their_names(name, blocks)
        if absent := [each for each in theirs if each not in left]:
            raise ExchangeError(
                f"the weights have no {absent[0]}, which config.json requires; both must belong to the same network"
            )
        tensor = torch.cat([left.pop(each).to(torch.float32) for each in theirs])
        if name == "label.weight" and not null_label:
            tensor = torch.cat([tensor, torch.zeros_like(tensor[:1])])
        if name == "time.0.weight" and not config.get("flip_sin_to_cos", True):  # sines before cosines
            tensor = torch.cat(tensor.chunk(2, dim=1)[::-1], dim=1)
        if _essential(tensor.shape) != _essential(shape):
            raise ExchangeError(
                f"the weights have {list(tensor.shape)} for {name}, but config.json requires {list(shape)}; "
                "both must belong to the same network"
            )
        read[name] = tensor.reshape(shape)
    if left:
        raise ExchangeError(f"the weights have {next(iter(left))}, which does not belong to the network of config.json")
    return architecture, read


def with_present_names(state: Mapping[str, Tensor]) -> Weights:
    """Return the tensors of a file of any version of diffusers by their names today."""
    present = {}
    for name, tensor in state.items():
        for former, now in FORMER.items():
            name = name.replace(former, now)
        present[name] = tensor
    return present


def to_diffusers(architecture: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Weights]:
    """Return config.json and the tensors of the weights' file for a `UNet` with these arguments and weights.

    A network of K classes becomes one of K + 1, whose last means "no label". The layer of the augmentation is left out,
    because it adds nothing for images without one.

    Raises ExchangeError.
    """
    config, blocks, written = to_theirs(architecture), _blocks(architecture), {}
    for name, tensor in state.items():
        if name == AUGMENTATION:
            continue
        if name.split(".")[-2] in ("qkv", "proj"):
            tensor = tensor.reshape(_essential(tensor.shape))
        names = _their_names(name, blocks)
        for theirs, part in zip(names, tensor.chunk(len(names)), strict=True):
            written[theirs] = part.clone(memory_format=torch.contiguous_format)
    return config, written


def with_time_shifted(architecture: Mapping[str, Any], state: Mapping[str, Tensor], *, by: float) -> Weights:
    """Return the weights of a network whose output at t is that of this network at t + `by`.

    The sinusoids of t + by are those of t, each pair rotated by an angle. The first layer is changed to rotate:
    cos(a + b) = cos a cos b - sin a sin b and sin(a + b) = sin a cos b + cos a sin b.
    """
    convention = architecture.get("convention", CONVENTION)
    frequencies = timestep_frequencies(architecture["width"], shift=convention.frequency_shift)
    cos, sin = (turn(by * frequencies.to(torch.float64)) for turn in (torch.cos, torch.sin))
    weight = state["time.0.weight"]
    on_cos, on_sin = weight.to(torch.float64).chunk(2, dim=1)
    turned = torch.cat([on_cos * cos + on_sin * sin, on_sin * cos - on_cos * sin], dim=1)
    return dict(state) | {"time.0.weight": turned.to(weight.dtype)}


def _blocks(architecture: Mapping[str, Any]) -> dict[str, str]:
    """Return their name of each of our blocks. Both count down from the finest level, and up from the coarsest."""
    levels, blocks = range(len(architecture["multipliers"])), architecture["blocks"]
    down, up = [], []
    for level in levels:
        down += [f"down_blocks.{level - 1}.downsamplers.0"] * (level > 0)
        down += [f"down_blocks.{level}.resnets.{k}" for k in range(blocks)]
        up += [f"up_blocks.{level}.resnets.{k}" for k in range(blocks + 1)]
        up += [f"up_blocks.{level}.upsamplers.0"] * (level < levels[-1])
    found: dict[str, str] = {}
    for way, places in {"down": down, "middle": ["mid_block.resnets.0", "mid_block.resnets.1"], "up": up}.items():
        for k, place in enumerate(places):
            found |= {f"{way}.{k}.block": place, f"{way}.{k}.attention": place.replace("resnets", "attentions")}
    return found


def _their_names(name: str, blocks: Mapping[str, str]) -> tuple[str, ...]:
    """Return their names of one of our tensors: three for q, k and v, otherwise one."""
    module, kind = name.rsplit(".", 1)
    if place := OUTER.get(module) or blocks.get(module):
        return (f"{place}.{kind}",)
    block, layer = module.rsplit(".", 1)
    return tuple(f"{blocks[block]}.{theirs}.{kind}" for theirs in LAYERS.get(layer, (layer,)))


def _essential(shape: Size) -> tuple[int, ...]:
    """Return the shape without the 1x1 of a convolution that replaces a linear layer."""
    return tuple(shape[:2] if shape[2:] == (1, 1) else shape)
