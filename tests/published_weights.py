"""Files of the form of published weights, with random values, since the real ones are downloads of 80 MB to 4 GB."""

from pathlib import Path

import torch
from torch import Tensor


def random_dinov2(path: Path, *, width: int, depth: int, side: int = 37, gated: bool = False) -> dict[str, Tensor]:
    """Write a state dict with the names and shapes of dinov2_vits14_pretrain.pth; side 37 is that of 518 pixels."""
    hidden = {"w12": (2 * width, width), "w3": (width, width)} if gated else {"fc1": (4 * width, width)}
    if gated:
        inner = (int(4 * width * 2 / 3) + 7) // 8 * 8
        hidden = {"w12": (2 * inner, width), "w3": (width, inner)}
    else:
        hidden["fc2"] = (width, 4 * width)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + side**2, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    linear |= {f"mlp.{name}": shape for name, shape in hidden.items()}
    for k in range(depth):
        for name, shape in linear.items():
            shapes |= {f"blocks.{k}.{name}.weight": shape, f"blocks.{k}.{name}.bias": shape[:1]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            shapes[f"blocks.{k}.{name}"] = (width,)
    draw = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=draw) * shape[-1] ** -0.5 for name, shape in shapes.items()}
    torch.save(weights, path)
    return weights


def random_clip(*, width: int, depth: int, patch: int, size: int, features: int) -> dict[str, Tensor]:
    """Return the part for images of a CLIP with a vision transformer, in half precision as OpenAI published it."""
    from torch_fidelity.feature_extractor_clip import CLIPVisual

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CLIPVisual(features, size, depth, width, patch)
    return {name: value.half() for name, value in network.state_dict().items()}
