"""The parts of the U-Net: residual blocks conditioned on time and class, resampling, self-attention."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.networks import kernels
from ddpm.networks.text_encoder import TextAttention

_Layer = TypeVar("_Layer", bound=nn.Module)


def zero(module: _Layer) -> _Layer:
    """Set all parameters of a layer to zero, so that its residual branch adds nothing at first; return the layer."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


Norm = Callable[[int], nn.Module]
"""Makes a normalisation layer for a number of channels."""


def group_norm(channels: int, *, groups: int | None, eps: float) -> nn.GroupNorm:
    """Return a group normalisation; with `groups` None it has up to 32 groups of at least four channels."""
    return nn.GroupNorm(groups or math.gcd(32, channels // 4), channels, eps=eps)


def normalised(x: Tensor, norm: nn.Module, *, scale_shift: Tensor | None = None, silu: bool = False) -> Tensor:
    """Return norm(x), then (1 + s) y + b if `scale_shift` [N,2C] gives s and b [N,C], then SiLU if `silu`."""
    if isinstance(norm, nn.GroupNorm) and kernels.suits(x):
        scale, shift = norm.weight.expand(len(x), -1), norm.bias.expand(len(x), -1)
        if scale_shift is not None:
            s, b = scale_shift.float().chunk(2, dim=1)
            scale, shift = scale * (1 + s), shift * (1 + s) + b
        return kernels.group_norm(x, scale, shift, groups=norm.num_groups, eps=norm.eps, silu=silu)
    y = norm(x)
    if scale_shift is not None:
        s, b = scale_shift[:, :, None, None].chunk(2, dim=1)
        y = y * (1 + s) + b
    return F.silu(y) if silu else y


def upsampled_conv(x: Tensor, conv: nn.Module) -> Tensor:
    """Return conv of x upsampled by 2 (each pixel repeated 2x2)."""
    large = x.shape[2] * x.shape[3] >= kernels.UPSAMPLED_FROM
    if x.device.type == "cpu" and large and isinstance(conv, nn.Conv2d):
        return kernels.upsampled_conv(x, conv)
    return kernels.conv(F.interpolate(x, scale_factor=2, mode="nearest"), conv)


def timestep_frequencies(dim: int, *, shift: int = 0, device: torch.device | None = None) -> Tensor:
    """Return 10000^(-k / (dim/2 - shift)) for k = 0..dim/2-1: float32 [dim/2].  Vaswani et al. 2017, Sec. 3.5.

    shift is 0 in that paper, and 1 in the code of Ho et al. 2020, where the last frequency is exactly 1/10000.
    """
    half = dim // 2
    k = torch.arange(half, device=device, dtype=torch.float32)
    return torch.exp(-math.log(10000) * k / (half - shift))


def timestep_embedding(t: Tensor, frequencies: Tensor) -> Tensor:
    """Return cosines, then sines, of t at the frequencies [dim/2]: [N] -> [N,dim]."""
    angles = t.to(torch.float32)[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResidualBlock(nn.Module):
    """norm, SiLU, (resample,) conv; norm with the embedding, SiLU, dropout, conv; plus the input.

    With `embedding` scale_shift the embedding scales and shifts the output of the second norm ("adaptive group
    normalisation"), and with `resample` up or down the block resamples as in BigGAN: both ADM, Sec. 3. With `embedding`
    add it is added before the second norm: Ho et al. 2020, appendix B.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        c_emb: int,
        dropout: float,
        embedding: str,
        norm: Norm,
        resample: str = "none",
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.resample = resample
        self.norm1 = norm(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.emb = nn.Linear(c_emb, 2 * c_out if embedding == "scale_shift" else c_out)
        self.norm2 = norm(c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return x

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = normalised(x, self.norm1, silu=True)
        h = upsampled_conv(h, self.conv1) if self.resample == "up" else kernels.conv(self._resampled(h), self.conv1)
        condition = kernels.linear(emb, self.emb)
        if self.embedding == "add":
            h = normalised(h + condition[:, :, None, None], self.norm2, silu=True)
        else:
            h = normalised(h, self.norm2, scale_shift=condition, silu=True)
        h = kernels.conv(self.dropout(h), self.conv2)
        x = self._resampled(x)
        return (x if isinstance(self.skip, nn.Identity) else kernels.conv(x, self.skip)) + h


class Downsample(nn.Module):
    """A strided 3x3 convolution that halves the resolution.  Ho et al. 2020's code.

    `padding` both pads a row or column of zeros on every side; after pads only below and to the right, as TensorFlow's
    "SAME" does, with which their weights were trained.
    """

    resample = "down"

    def __init__(self, channels: int, *, padding: str) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if padding == "both" else 0)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        return kernels.conv(x if self.padding == "both" else F.pad(x, (0, 1, 0, 1)), self.conv)


class Upsample(nn.Module):
    """Upsampling by 2 (each pixel repeated 2x2), then a 3x3 convolution.  Ho et al. 2020's code."""

    resample = "up"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        return upsampled_conv(x, self.conv)


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v for q, k, v [N, heads, L, d].  Vaswani et al. 2017, Eq. 1."""
    if kernels.suits(q):
        return kernels.attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)).view_as(q)
    return F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous())


class SelfAttention(nn.Module):
    """Multi-head self-attention over the H*W positions, added to the input.

    Raises ValueError if the channels cannot be divided into equal heads of about `head_channels` channels.
    """

    def __init__(self, channels: int, *, head_channels: int, norm: Norm) -> None:
        super().__init__()
        self.channels = channels
        self.heads = max(1, channels // head_channels)
        if channels % self.heads:
            raise ValueError(f"{channels} channels cannot be divided into {self.heads} heads of equal size")
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        qkv = kernels.conv(normalised(x, self.norm), self.qkv).reshape(
            n, 3, self.heads, c // self.heads, height * width
        )
        h = attended(*qkv.transpose(-1, -2).unbind(1))
        return x + kernels.conv(h.transpose(-1, -2).reshape(n, c, height, width), self.proj)


class Text(NamedTuple):
    """What a network reads of the texts of its samples."""

    emb: Tensor
    """What is added to the embedding of t: [N, c_emb]."""
    states: Tensor
    """What blocks attend to: [N, L, width]."""
    is_text: Tensor
    """bool [N, L]: false for the tokens after the text."""


class CrossAttention(nn.Module):
    """Multi-head attention of the H*W positions to the states of a text, added to the input.  Rombach et al. 2022,
    Sec. 3.3."""

    def __init__(self, channels: int, width: int, *, heads: int, norm: Norm) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.attention = TextAttention(channels, width, heads=heads)
        zero(self.attention.proj)

    def forward(self, x: Tensor, text: Text) -> Tensor:
        queries = normalised(x, self.norm).flatten(2).transpose(1, 2)
        return x + self.attention(queries, text.states, text.is_text).transpose(1, 2).view_as(x)


class Stage(nn.Module):
    """A residual block or a resampling layer, and at chosen resolutions attention to itself and to a text."""

    def __init__(
        self,
        block: ResidualBlock | Downsample | Upsample,
        attention: SelfAttention | None,
        cross: CrossAttention | None = None,
    ) -> None:
        super().__init__()
        self.block = block
        self.attention = attention
        self.cross = cross
        self.takes_skip = block.resample == "none"

    def forward(self, x: Tensor, emb: Tensor, text: Text | None = None) -> Tensor:
        x = self.block(x, emb)
        if self.attention is not None:
            x = self.attention(x)
        return x if self.cross is None or text is None else self.cross(x, text)
