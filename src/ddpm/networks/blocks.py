"""What the U-Net is built of: residual blocks told of time and class, resampling, self-attention."""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.networks import kernels

_Layer = TypeVar("_Layer", bound=nn.Module)


def zero(module: _Layer) -> _Layer:
    """A layer that starts as zero, so that a residual branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


Norm = Callable[[int], nn.Module]
"""A normalisation of so many channels."""


def group_norm(channels: int, *, groups: int | None, eps: float) -> nn.GroupNorm:
    """Without a number, up to 32 groups of at least four channels."""
    return nn.GroupNorm(groups or math.gcd(32, channels // 4), channels, eps=eps)


def normalised(x: Tensor, norm: nn.Module, *, told: Tensor | None = None, silu: bool = False) -> Tensor:
    """norm(x), scaled by 1 + s and shifted by b where `told` [N,2C] says s and b, then SiLU where asked."""
    if isinstance(norm, nn.GroupNorm) and kernels.suits(x):
        scale, shift = norm.weight.expand(len(x), -1), norm.bias.expand(len(x), -1)
        if told is not None:
            more, offset = told.float().chunk(2, dim=1)
            scale, shift = scale * (1 + more), shift * (1 + more) + offset
        return kernels.group_norm(x, scale, shift, groups=norm.num_groups, eps=norm.eps, silu=silu)
    y = norm(x)
    if told is not None:
        more, offset = told[:, :, None, None].chunk(2, dim=1)
        y = y * (1 + more) + offset
    return F.silu(y) if silu else y


def upsampled_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """conv of x with every pixel taken four times."""
    if x.device.type == "cpu" and x.shape[2] * x.shape[3] >= kernels.UPSAMPLED_FROM:
        return kernels.upsampled_conv(x, conv)
    return kernels.conv(F.interpolate(x, scale_factor=2, mode="nearest"), conv)


def timestep_frequencies(dim: int, *, shift: int = 0, device: torch.device | None = None) -> Tensor:
    """10000^(-k / (dim/2 - shift)) for k = 0..dim/2-1: float32 [dim/2].  Vaswani et al. 2017, Sec. 3.5.

    shift = 0 as there; 1 as in the code of Ho et al. 2020, where the last is 1/10000 itself.
    """
    half = dim // 2
    k = torch.arange(half, device=device, dtype=torch.float32)
    return torch.exp(-math.log(10000) * k / (half - shift))


def timestep_embedding(t: Tensor, frequencies: Tensor) -> Tensor:
    """Cosines, then sines, of t at the frequencies [dim/2]: [N] -> [N,dim]."""
    angles = t.to(torch.float32)[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResidualBlock(nn.Module):
    """norm, SiLU, (resample,) conv; norm told of the embedding, SiLU, dropout, conv; plus the input.

    `embedding` scale_shift scales and shifts what the second norm gives ("adaptive group normalisation"), and
    `resample` makes the block resample as in BigGAN: both ADM, Sec. 3. `embedding` add adds before that norm:
    Ho et al. 2020, appendix B.
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
        told = kernels.linear(emb, self.emb)
        if self.embedding == "add":
            h = normalised(h + told[:, :, None, None], self.norm2, silu=True)
        else:
            h = normalised(h, self.norm2, told=told, silu=True)
        h = kernels.conv(self.dropout(h), self.conv2)
        x = self._resampled(x)
        return (kernels.conv(x, self.skip) if isinstance(self.skip, nn.Conv2d) else x) + h


class Downsample(nn.Module):
    """A strided 3x3 convolution: half the resolution.  Ho et al. 2020's code.

    `padding` both puts a row or column of zeros on every side, `after` below and to the right alone: TensorFlow's
    "SAME", which their weights were trained with.
    """

    resample = "down"

    def __init__(self, channels: int, *, padding: str) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if padding == "both" else 0)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return kernels.conv(x if self.padding == "both" else F.pad(x, (0, 1, 0, 1)), self.conv)


class Upsample(nn.Module):
    """Every pixel four times, then a 3x3 convolution: twice the resolution.  Ho et al. 2020's code."""

    resample = "up"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return upsampled_conv(x, self.conv)


class SelfAttention(nn.Module):
    """Multi-head self-attention over the H*W positions, added to the input.

    Raises ValueError where heads of about `head_channels` channels would not be alike.
    """

    def __init__(self, channels: int, *, head_channels: int, norm: Norm) -> None:
        super().__init__()
        self.channels = channels
        self.heads = max(1, channels // head_channels)
        if channels % self.heads:
            raise ValueError(f"{channels} channels are no {self.heads} heads of equal size")
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        qkv = kernels.conv(normalised(x, self.norm), self.qkv).reshape(
            n, 3, self.heads, c // self.heads, height * width
        )
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # [N, heads, H*W, C/heads] each
        if kernels.suits(q):
            h = kernels.attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)).view_as(q)
        else:
            h = F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous())
        return x + kernels.conv(h.transpose(-1, -2).reshape(n, c, height, width), self.proj)


class Stage(nn.Module):
    """A residual block, or resampling, and at chosen resolutions attention."""

    def __init__(self, block: ResidualBlock | Downsample | Upsample, attention: SelfAttention | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention
        self.takes_skip = block.resample == "none"

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = self.block(x, emb)
        return x if self.attention is None else self.attention(x)
