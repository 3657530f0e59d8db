"""Where each weight of the U-Net stands in a `UNet2DModel` of diffusers, and what it looks like there."""

from collections.abc import Mapping
from itertools import count

import torch
from torch import Size, Tensor

QKV = ("to_q", "to_k", "to_v")
# Their names of a layer within a block; the others are called alike.
LAYERS: dict[str, tuple[str, ...]] = {
    "emb": ("time_emb_proj",),
    "skip": ("conv_shortcut",),
    "norm": ("group_norm",),
    "qkv": QKV,  # one convolution of ours is three linear layers of theirs
    "proj": ("to_out.0",),
}
# The first versions of diffusers wrote these; files of theirs are still about.
FORMER = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


class ExchangeError(ValueError):
    """One sentence that names the option or tensor which the other side cannot express."""


def places(*, levels: int, blocks: int) -> dict[str, str]:
    """Our blocks and outer layers -> theirs."""
    found = {
        "conv_in": "conv_in",
        "time.0": "time_embedding.linear_1",
        "time.2": "time_embedding.linear_2",
        "label": "class_embedding",
        "middle.0.block": "mid_block.resnets.0",
        "middle.0.attention": "mid_block.attentions.0",
        "middle.1.block": "mid_block.resnets.1",
        "norm_out": "conv_norm_out",
        "conv_out": "conv_out",
    }
    k = count()
    for level in range(levels):
        if level > 0:
            found[f"down.{next(k)}.block"] = f"down_blocks.{level - 1}.downsamplers.0"
        for j in range(blocks):
            found |= _stage(f"down.{next(k)}", f"down_blocks.{level}", j)
    k = count()
    for level in range(levels):  # coarsest first, as in both
        for j in range(blocks + 1):
            found |= _stage(f"up.{next(k)}", f"up_blocks.{level}", j)
        if level < levels - 1:
            found[f"up.{next(k)}.block"] = f"up_blocks.{level}.upsamplers.0"
    return found


def _stage(ours: str, theirs: str, j: int) -> dict[str, str]:
    return {f"{ours}.block": f"{theirs}.resnets.{j}", f"{ours}.attention": f"{theirs}.attentions.{j}"}


def their_names(name: str, where: Mapping[str, str]) -> tuple[str, ...]:
    """Of one tensor of ours, the three of q, k and v or the one of anything else."""
    module, kind = name.rsplit(".", 1)
    if module in where:
        return (f"{where[module]}.{kind}",)
    block, layer = module.rsplit(".", 1)
    return tuple(f"{where[block]}.{theirs}.{kind}" for theirs in LAYERS.get(layer, (layer,)))


def from_theirs(
    state: Mapping[str, Tensor],
    shapes: Mapping[str, Size],
    *,
    levels: int,
    blocks: int,
    sines_first: bool,
    pad_label: bool,
) -> dict[str, Tensor]:
    """Our weights, float32, of these names and shapes, from all of theirs; copies.

    `sines_first`: their embedding of t has sines before cosines. `pad_label`: they have no "no label"; it adds 0.
    Raises ExchangeError.
    """
    left = {_present(name): tensor for name, tensor in state.items()}
    where = places(levels=levels, blocks=blocks)
    read = {}
    for name, shape in shapes.items():
        parts = []
        for theirs in their_names(name, where):
            if theirs not in left:
                raise ExchangeError(
                    f"the weights have no {theirs}, which config.json asks for; both must be of one network"
                )
            parts.append(left.pop(theirs).to(torch.float32))
        tensor = torch.cat(parts)
        if name == "label.weight" and pad_label:
            tensor = torch.cat([tensor, torch.zeros_like(tensor[:1])])
        if name == "time.0.weight" and sines_first:
            tensor = torch.cat(tensor.chunk(2, dim=1)[::-1], dim=1)
        if _essential(tensor.shape) != _essential(shape):
            raise ExchangeError(
                f"the weights have {list(tensor.shape)} for {name}, but config.json asks for {list(shape)}; "
                "both must be of one network"
            )
        read[name] = tensor.reshape(shape)
    if left:
        raise ExchangeError(f"the weights have {next(iter(left))}, which config.json has no place for")
    return read


def to_theirs(state: Mapping[str, Tensor], *, levels: int, blocks: int) -> dict[str, Tensor]:
    """Their weights from ours; copies."""
    where = places(levels=levels, blocks=blocks)
    written = {}
    for name, tensor in state.items():
        layer = name.split(".")[-2]
        if layer in ("qkv", "proj"):
            tensor = tensor.reshape(_essential(tensor.shape))
        names = their_names(name, where)
        for theirs, part in zip(names, tensor.chunk(len(names)), strict=True):
            written[theirs] = part.clone(memory_format=torch.contiguous_format)
    return written


def turned(weight: Tensor, angles: Tensor) -> Tensor:
    """W' with W' e(t) = W e(t + by): weight [C,dim] on cosines and sines, angles by * frequencies, float64 [dim/2].

    cos(a + b) = cos a cos b - sin a sin b and sin(a + b) = sin a cos b + cos a sin b.
    """
    on_cos, on_sin = weight.to(torch.float64).chunk(2, dim=1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([on_cos * cos + on_sin * sin, on_sin * cos - on_cos * sin], dim=1).to(weight.dtype)


def _present(name: str) -> str:
    for former, now in FORMER.items():
        name = name.replace(former, now)
    return name


def _essential(shape: Size) -> tuple[int, ...]:
    """Without the 1x1 of a convolution that stands for a linear layer."""
    sizes = list(shape)
    while len(sizes) > 2 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)
