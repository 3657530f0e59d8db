"""The vision transformer of DINOv2 (Oquab et al. 2023), with the names of the weights in its published files.

torch-fidelity obtains this network by running code from the network (torch.hub), so it is written here.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_CHANNELS = 64
"""Channels of each attention head, in every published network."""
INTERPOLATION_OFFSET = 0.1
"""Added to the number of positions per side when position embeddings are resized. The published features depend on it
slightly, because it moves the places at which the embeddings are read."""


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, -1, HEAD_CHANNELS)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Perceptron(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Gated(nn.Module):
    """SwiGLU (Shazeer 2020), in the largest network."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=2)
        return self.w3(F.silu(gate) * value)


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Block(nn.Module):
    def __init__(self, width: int, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = _Attention(width), mlp
        self.ls1, self.ls2 = _Scale(width), _Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _Patches(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class DinoV2(nn.Module):
    """Map normalised RGB images [N,3,S,S], S a multiple of the patch size, to features of their class token [N,width].

    `side` is the number of patches per side for which there are position embeddings; for other sizes of images these
    are resized. `gated`: the perceptrons are gated, as in the largest network.
    """

    def __init__(self, *, width: int, depth: int, patch: int, side: int, gated: bool) -> None:
        super().__init__()
        self.patch = patch
        self.patch_embed = _Patches(width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, width))
        # The largest network keeps the number of weights: two thirds of 4 width, rounded up to a multiple of 8.
        perceptrons = [
            _Gated(width, math.ceil(8 * width // 3 / 8) * 8) if gated else _Perceptron(width, 4 * width)
            for _ in range(depth)
        ]
        self.blocks = nn.Sequential(*(_Block(width, mlp) for mlp in perceptrons))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], dim=1)
        return self.norm(self.blocks(tokens + self._positions(x.shape[-1] // self.patch))[:, 0])

    def _positions(self, side: int) -> Tensor:
        """Return the position embeddings [1, 1 + side^2, width], resized as in the published code."""
        trained = math.isqrt(self.pos_embed.shape[1] - 1)
        if side == trained:
            return self.pos_embed
        token, patches = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid = patches.unflatten(1, (trained, trained)).permute(0, 3, 1, 2)
        factor = (side + INTERPOLATION_OFFSET) / trained
        resized = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
        return torch.cat([token, resized.flatten(2).transpose(1, 2)], dim=1)


def network_of(weights: Mapping[str, Tensor]) -> DinoV2:
    """Return the network that has these weights, on the CPU; its size follows from their shapes.

    Raises KeyError or RuntimeError for weights that are not those of such a network.
    """
    kernel, positions = weights["patch_embed.proj.weight"], weights["pos_embed"]
    with torch.device("meta"):
        network = DinoV2(
            width=kernel.shape[0],
            depth=len({name.split(".")[1] for name in weights if name.startswith("blocks.")}),
            patch=kernel.shape[-1],
            side=math.isqrt(positions.shape[1] - 1),
            gated="blocks.0.mlp.w12.weight" in weights,
        )
    # The token of masked patches is used in its training only.
    network.load_state_dict({name: value for name, value in weights.items() if name != "mask_token"}, assign=True)
    return network
