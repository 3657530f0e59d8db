"""The U-Net of Dhariwal and Nichol 2021 ("ADM"): residual blocks modulated by time and class, attention where asked."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _zero(module: nn.Module) -> nn.Module:
    """A layer that starts as zero, so that a residual branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels // 4), channels)


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoids of t at geometrically spaced frequencies: [N] -> [N,dim].  Vaswani et al. 2017, Sec. 3.5."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.to(torch.float32)[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResidualBlock(nn.Module):
    """norm, SiLU, (resample,) conv; norm scaled and shifted by the embedding, SiLU, dropout, conv; plus the input.

    ADM, Sec. 3: "BigGAN" up- and down-sampling inside the block, scale-shift ("adaptive group") normalisation.
    """

    def __init__(self, c_in: int, c_out: int, *, c_emb: int, dropout: float, resample: str = "none") -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = _norm(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.emb = nn.Linear(c_emb, 2 * c_out)
        self.norm2 = _norm(c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _zero(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return x

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(self._resampled(F.silu(self.norm1(x))))
        scale, shift = self.emb(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        h = self.conv2(self.dropout(F.silu(h)))
        return self.skip(self._resampled(x)) + h


class SelfAttention(nn.Module):
    """Multi-head self-attention over the H*W positions, added to the input."""

    def __init__(self, channels: int, *, head_channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // head_channels)
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, 3, self.heads, c // self.heads, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # [N, heads, H*W, C/heads] each
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj(h.transpose(-1, -2).reshape(n, c, height, width))


class _Stage(nn.Module):
    """A residual block and, at chosen resolutions, attention."""

    def __init__(self, block: ResidualBlock, attention: SelfAttention | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention
        self.takes_skip = block.resample == "none"

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = self.block(x, emb)
        return x if self.attention is None else self.attention(x)


class UNet(nn.Module):
    """(x_t [N,C,H,W], t [N], labels [N] or None) -> prediction [N,C,H,W], or with `out_channels` instead of C.

    Any H and W: the input is padded to a multiple of the total down-sampling and the output cropped back.
    Labels are 0..classes-1; None, or the label `classes`, asks for the unconditional prediction.
    `attention` lists resolutions in pixels, for images of `size` pixels.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        classes: int,
        width: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention: tuple[int, ...],
        head_channels: int,
        dropout: float,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.width = width
        self.factor = 2 ** (len(multipliers) - 1)
        c_emb = 4 * width
        self.time = nn.Sequential(nn.Linear(width, c_emb), nn.SiLU(), nn.Linear(c_emb, c_emb))
        self.label = nn.Embedding(classes + 1, c_emb) if classes else None

        resolution = math.ceil(size / self.factor) * self.factor

        def stage(c_in: int, c_out: int, resample: str = "none", attend: bool = True) -> _Stage:
            block = ResidualBlock(c_in, c_out, c_emb=c_emb, dropout=dropout, resample=resample)
            here = attend and resolution in attention
            return _Stage(block, SelfAttention(c_out, head_channels=head_channels) if here else None)

        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        c = width
        skips = [c]
        self.down = nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            if level > 0:
                self.down.append(stage(c, c, "down", attend=False))
                resolution //= 2
                skips.append(c)
            for _ in range(blocks):
                self.down.append(stage(c, multiplier * width))
                c = multiplier * width
                skips.append(c)

        middle_attention = SelfAttention(c, head_channels=head_channels)
        self.middle = nn.ModuleList(
            [
                _Stage(ResidualBlock(c, c, c_emb=c_emb, dropout=dropout), middle_attention),
                _Stage(ResidualBlock(c, c, c_emb=c_emb, dropout=dropout), None),
            ]
        )

        # One more block per level than going down: each also takes in what the way down left behind.
        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.up.append(stage(c + skips.pop(), multiplier * width))
                c = multiplier * width
            if level > 0:
                resolution *= 2
                self.up.append(stage(c, c, "up", attend=False))
        assert not skips

        self.norm_out = _norm(c)
        self.conv_out = _zero(nn.Conv2d(c, out_channels or channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.factor, 0, -height % self.factor))

        emb = self.time(timestep_embedding(t, self.width))
        if self.label is not None:
            null = torch.full(t.shape, self.classes, device=t.device, dtype=torch.long)
            emb = emb + self.label(null if labels is None else labels)
        emb = F.silu(emb)

        h = self.conv_in(x)
        skips = [h]
        for stage in self.down:
            h = stage(h, emb)
            skips.append(h)
        for stage in self.middle:
            h = stage(h, emb)
        for stage in self.up:
            if stage.takes_skip:
                h = torch.cat([h, skips.pop()], dim=1)
            h = stage(h, emb)
        return self.conv_out(F.silu(self.norm_out(h)))[..., :height, :width]
