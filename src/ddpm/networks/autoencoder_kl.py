"""The autoencoder between images and latents of Rombach et al. 2022, with the layers and names of diffusers'.

A state dict of diffusers' `AutoencoderKL` fits this network, and its state dict fits theirs.
"""

from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ddpm.networks.blocks import Downsample, Norm, Upsample, attended, group_norm, normalised
from ddpm.networks.conditioned import DirectNetwork
from ddpm.networks.kernels import conv, linear

_EPS = 1e-6
"""Constant that group normalisation adds to the variance."""
_LOG_VAR = -30.0, 20.0
"""Bounds of the log variance of q."""


class AutoencoderKL(DirectNetwork):
    """Encoder q(z | x) and decoder of images [N,C,H,W]; height and width are multiples of 2^(len(widths) - 1).

    The latent z is [N,L,h,w], 2^(len(widths) - 1) times lower and narrower than the image. `shift` and `scale` make
    standardised latents of it: (z - shift) scale. There are no labels, and None is accepted for them.
    """

    def __init__(
        self,
        *,
        channels: int,
        latent_channels: int,
        widths: tuple[int, ...],
        blocks: int,
        groups: int,
        attention: bool,
        quant: bool,
        shift: float,
        scale: float,
    ) -> None:
        super().__init__()
        self.shift, self.scale = shift, scale
        norm = partial(group_norm, groups=groups, eps=_EPS)
        layers: dict[str, Any] = {"blocks": blocks, "attention": attention, "norm": norm}
        self.encoder = _Encoder(channels, 2 * latent_channels, widths, **layers)
        self.decoder = _Decoder(latent_channels, channels, widths, **layers)
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1) if quant else None
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1) if quant else None

    def q(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of q(z | x), not standardised, for x in [-1, 1]: [N,L,h,w] each, float32."""
        h = self.encoder(x)
        moments = h if self.quant_conv is None else conv(h, self.quant_conv)
        mean, log_var = moments.float().chunk(2, dim=1)
        return mean, log_var.clamp(*_LOG_VAR)

    def encode(self, x: Tensor) -> Tensor:
        """Return the standardised latents of images in [-1, 1], those of the mean of q: [N,L,h,w], float32."""
        return (self.q(x)[0] - self.shift) * self.scale

    def decode(self, z: Tensor) -> Tensor:
        """Return the images of standardised latents [N,L,h,w]: [N,C,H,W], float32, not clipped to [-1, 1]."""
        return self.reconstruct(z / self.scale + self.shift)

    def reconstruct(self, z: Tensor) -> Tensor:
        """Return the images of latents [N,L,h,w] that are not standardised: [N,C,H,W], float32."""
        return self.decoder(z if self.post_quant_conv is None else conv(z, self.post_quant_conv)).float()

    def draw(self, z: Tensor, labels: None = None) -> Tensor:
        return self.decode(z)

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the image of z = mean + sigma eps, the mean and the log variance of q(z | x), all float32."""
        mean, log_var = self.q(x)
        x_hat = self.reconstruct(mean + (0.5 * log_var).exp() * eps)
        return x_hat, mean.clone(), log_var  # FSDP warns of outputs that are views

    def hide(self, labels: None, where: Tensor) -> None:
        return None


class _Encoder(nn.Module):
    def __init__(
        self, c_in: int, c_out: int, widths: tuple[int, ...], *, blocks: int, attention: bool, norm: Norm
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(c_in, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            _Down(before, c, blocks=blocks, resamples=level < len(widths), norm=norm)
            for level, (before, c) in enumerate(pairwise([widths[0], *widths]), start=1)
        )
        self.mid_block = _Middle(widths[-1], attention=attention, norm=norm)
        self.conv_norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], c_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = conv(x, self.conv_in)
        for block in self.down_blocks:
            h = block(h)
        h = self.mid_block(h)
        return conv(normalised(h, self.conv_norm_out, silu=True), self.conv_out)


class _Decoder(nn.Module):
    def __init__(
        self, c_in: int, c_out: int, widths: tuple[int, ...], *, blocks: int, attention: bool, norm: Norm
    ) -> None:
        super().__init__()
        coarse_first = widths[::-1]
        self.conv_in = nn.Conv2d(c_in, coarse_first[0], 3, padding=1)
        self.mid_block = _Middle(coarse_first[0], attention=attention, norm=norm)
        self.up_blocks = nn.ModuleList(
            _Up(before, c, blocks=blocks + 1, resamples=level < len(widths), norm=norm)
            for level, (before, c) in enumerate(pairwise([coarse_first[0], *coarse_first]), start=1)
        )
        self.conv_norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], c_out, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid_block(conv(z, self.conv_in))
        for block in self.up_blocks:
            h = block(h)
        return conv(normalised(h, self.conv_norm_out, silu=True), self.conv_out)


class _Resnets(nn.Module):
    """Residual blocks, of which the first one changes the number of channels."""

    def __init__(self, c_in: int, c_out: int, *, blocks: int, norm: Norm) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_Residual(c_in if k == 0 else c_out, c_out, norm=norm) for k in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        return x


class _Down(_Resnets):
    def __init__(self, c_in: int, c_out: int, *, blocks: int, resamples: bool, norm: Norm) -> None:
        super().__init__(c_in, c_out, blocks=blocks, norm=norm)
        self.downsamplers = nn.ModuleList([Downsample(c_out, padding="after")] if resamples else [])

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        for layer in self.downsamplers:
            x = layer(x)
        return x


class _Up(_Resnets):
    def __init__(self, c_in: int, c_out: int, *, blocks: int, resamples: bool, norm: Norm) -> None:
        super().__init__(c_in, c_out, blocks=blocks, norm=norm)
        self.upsamplers = nn.ModuleList([Upsample(c_out)] if resamples else [])

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        for layer in self.upsamplers:
            x = layer(x)
        return x


class _Middle(nn.Module):
    def __init__(self, channels: int, *, attention: bool, norm: Norm) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([_Attention(channels, norm=norm)] if attention else [])
        self.resnets = nn.ModuleList(_Residual(channels, channels, norm=norm) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.resnets
        x = first(x)
        for layer in self.attentions:
            x = layer(x)
        return second(x)


class _Residual(nn.Module):
    def __init__(self, c_in: int, c_out: int, *, norm: Norm) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(c_in), norm(c_out)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = None if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = conv(normalised(x, self.norm1, silu=True), self.conv1)
        h = conv(normalised(h, self.norm2, silu=True), self.conv2)
        return (x if self.conv_shortcut is None else conv(x, self.conv_shortcut)) + h


class _Attention(nn.Module):
    """Self-attention with one head over the positions, added to the input."""

    def __init__(self, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.group_norm = norm(channels)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        # For a single image the reshape is a view with other strides, by which a matrix product may round differently.
        rows = normalised(x, self.group_norm).permute(0, 2, 3, 1).reshape(-1, c).contiguous()
        q, k, v = (linear(rows, layer).view(n, 1, -1, c) for layer in (self.to_q, self.to_k, self.to_v))
        h = linear(attended(q, k, v).reshape(-1, c), self.to_out[0])
        return x + h.view(n, height, width, c).permute(0, 3, 1, 2)
