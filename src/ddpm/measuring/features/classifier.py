"""A small residual classifier of images; the inputs of its last layer are the features for FID and other metrics."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 32
"""Channels at the highest resolution; they double at each lower one, and the last one has one channel per feature."""
FINEST, COARSEST = 16, 4
"""Residual blocks work on at most FINEST pixels down to at most COARSEST; larger images are strided first."""


def _norm(channels: int) -> nn.GroupNorm:
    """Return a norm without batch statistics, so that features do not depend on the other images of the batch."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def _strided(c_in: int, c_out: int) -> nn.Conv2d:
    """Return a convolution to half the resolution, rounded up, whose kernels cover every pixel."""
    return nn.Conv2d(c_in, c_out, 3, padding=1, stride=2)


class _Residual(nn.Module):
    """Norm, SiLU and convolution, applied twice and added to the input (pre-activation, He et al. 2016b)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(channels), _norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Classifier(nn.Module):
    """Map x [N,C,H,W] in [-1,1] to features [N,dim] and logits [N,classes], for any size from 4 pixels.

    A quarter of the features are means over the image of one layer of 3x3 filters, the others of the last residual
    block. The latter represent the content; alone they would be nearly insensitive to noise, blur and contrast.
    Each feature has mean 0 and standard deviation 1 over the images of `standardise`, so that all features have equal
    weight and kernels get values of order 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, channels: int, size: int, classes: int, dim: int) -> None:
        super().__init__()
        self.channels, self.size, self.classes, self.dim = channels, size, classes, dim
        fine = dim // 4
        stem = max(0, math.ceil(math.log2(size / FINEST)))
        halvings = max(1, math.ceil(math.log2(min(size, FINEST) / COARSEST)))
        widths = [WIDTH * 2**level for level in range(halvings)] + [dim - fine]

        self.texture = nn.Sequential(nn.Conv2d(channels, fine, 3, padding=1), nn.SiLU())
        layers: list[nn.Module] = [_strided(channels, WIDTH) if stem else nn.Conv2d(channels, WIDTH, 3, padding=1)]
        for _ in range(stem - 1):
            layers += [_norm(WIDTH), nn.SiLU(), _strided(WIDTH, WIDTH)]
        layers.append(_Residual(WIDTH))
        for c_in, c_out in pairwise(widths):
            layers += [_strided(c_in, c_out), _Residual(c_out)]
        self.content = nn.Sequential(*layers)
        self.head = nn.Linear(dim, classes)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled = torch.cat([self.texture(x).mean(dim=(2, 3)), self.content(x).mean(dim=(2, 3))], dim=1)
        return (pooled - self.mean) / self.std, self.head(pooled)

    def activations(self, x: Tensor) -> list[Tensor]:
        """Return the outputs [N,c,h,w] of the texture layer and of every residual block, which are not standardised."""
        found, h = [self.texture(x)], x
        for layer in self.content:
            h = layer(h)
            if isinstance(layer, _Residual):
                found.append(h)
        return found

    def standardise(self, features: Tensor) -> None:
        """Change mean and std so that these features [N,dim] of the current network get mean 0 and deviation 1."""
        std, mean = torch.std_mean(features.to(torch.float64), dim=0)
        # A constant feature is not scaled up.
        self.mean.add_(self.std * mean.to(self.mean))
        self.std.mul_(torch.where(std > 1e-6, std, 1.0).to(self.std))
