"""A small residual classifier of images; what it holds before its last layer are the features FID speaks of."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 32
"""Channels at the highest resolution; they double at each further one, and the last has one per feature."""
FINEST, COARSEST = 16, 4
"""Residual blocks work from at most FINEST pixels down to at most COARSEST; larger images are strided down first."""


def _norm(channels: int) -> nn.GroupNorm:
    """No running statistics, so that an image has the same features whatever stands beside it in the batch."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def _strided(c_in: int, c_out: int) -> nn.Conv2d:
    """Half the resolution, rounded up; every pixel is seen."""
    return nn.Conv2d(c_in, c_out, 3, padding=1, stride=2)


class _Residual(nn.Module):
    """Norm, SiLU, conv, twice, added to the input.  He et al. 2016b, pre-activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(channels), _norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Classifier(nn.Module):
    """x [N,C,H,W] in [-1,1] -> features [N,dim] and logits [N,classes]. Any size from 4 pixels up.

    A quarter of the features are means over the image of one layer of 3x3 filters, the others of the last residual
    stream. The latter know what is in the image; alone they would be nearly blind to noise, blur and contrast.
    Features have mean 0 and standard deviation 1 over the images given to `standardise`, each of them, so that
    none is lost beside the others and kernels see numbers of order 1.
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

    def standardise(self, features: Tensor) -> None:
        """Features [N,dim] of the network as it is define mean 0 and standard deviation 1 from now on."""
        std, mean = torch.std_mean(features.to(torch.float64), dim=0)
        # A feature that never varies stays as small as it is.
        self.mean.add_(self.std * mean.to(self.mean))
        self.std.mul_(torch.where(std > 1e-6, std, 1.0).to(self.std))
