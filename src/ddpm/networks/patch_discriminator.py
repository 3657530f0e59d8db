"""A discriminator of patches beside the autoencoder that it judges, trained in one backward pass."""

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ddpm.networks.autoencoder_kl import AutoencoderKL
from ddpm.networks.blocks import group_norm, normalised
from ddpm.networks.conditioned import Conditional

_SLOPE = 0.2
"""Slope of leaky ReLU below 0."""
_HALVINGS = 3
"""Convolutions that halve the resolution, at most."""
_LEAST = 4
"""Positions per side of the lowest resolution, at least, where the image has so many."""


class PatchDiscriminator(nn.Module):
    """D(x [N,C,size,size]) -> a logit for each patch that it is of a real image: float32 [N,1,h,w].

    The PatchGAN of Isola et al. 2017. Groups are normalised instead of the batch, so that the logits of an image do not
    depend on those beside it.
    """

    def __init__(self, *, channels: int, size: int, width: int) -> None:
        super().__init__()
        halvings = max(1, min(_HALVINGS, int(math.log2(max(size, _LEAST) / _LEAST))))
        widths = [width * 2**level for level in range(halvings)]
        self.conv_in = nn.Conv2d(channels, width, 4, stride=2, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(group_norm(c, groups=None, eps=1e-5) for c in widths[1:])
        self.conv_out = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.conv_in(x), _SLOPE)
        for layer, norm in zip(self.convs, self.norms, strict=True):
            h = F.leaky_relu(normalised(layer(h), norm), _SLOPE)
        return self.conv_out(h).float()


class JudgedAutoencoder(Conditional):
    """An autoencoder and its discriminator in training. The autoencoder alone is the model."""

    def __init__(self, autoencoder: AutoencoderKL, discriminator: PatchDiscriminator) -> None:
        super().__init__()
        self.autoencoder, self.discriminator = autoencoder, discriminator

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        """Return what the autoencoder returns, then D(x), D(x_hat) for the discriminator, and D(x_hat) for the other.

        One backward pass of a sum of losses gives each network its own gradient: x_hat is detached for the
        discriminator, and the discriminator's weights are for the autoencoder.
        """
        x_hat, mean, log_var = self.autoencoder(x, eps)
        D = self.discriminator
        frozen = {name: weight.detach() for name, weight in D.named_parameters()}
        return x_hat, mean, log_var, D(x), D(x_hat.detach()), functional_call(D, frozen, (x_hat,))

    def hide(self, labels: None, where: Tensor) -> None:
        return None
