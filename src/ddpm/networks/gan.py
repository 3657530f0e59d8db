"""A generative adversarial network: generator G(z, y) and discriminator D(x, y), trained by one loss.

The non-saturating loss of Goodfellow et al. 2014 with the penalty R1 of Mescheder et al. 2018, Eq. 9. The discriminator
uses the label by projection (Miyato and Koyama 2018) and has no normalisation.
"""

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ddpm.networks.blocks import group_norm, normalised, zero
from ddpm.networks.conditioned import Conditional, DirectNetwork
from ddpm.networks.kernels import conv, linear
from ddpm.networks.pyramid import Pyramid

_BASE = 4
"""Positions of the lowest resolution of the generator, as in DCGAN (Radford et al. 2016)."""
_SLOPE = 0.2
"""Slope of leaky ReLU below 0."""


class Generator(DirectNetwork):
    """G(z [N,L], y [N] or None) -> images [N,C,size,size].

    As in DCGAN, one convolution per resolution, and most parameters at the lowest one, where they cost least. Groups
    are normalised instead of the batch, so that an image does not depend on those beside it.
    """

    def __init__(self, *, channels: int, size: int, classes: int, width: int, latent: int) -> None:
        super().__init__()
        self.classes = classes
        self.pyramid = Pyramid(size, width=width, base=_BASE)
        lowest_first = self.pyramid.widths[::-1]
        self.label = nn.Embedding(classes + 1, latent)
        self.from_z = nn.Linear(2 * latent, 2 * lowest_first[0] * _BASE**2)
        self.norm_z = group_norm(2 * lowest_first[0], groups=None, eps=1e-5)
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for c_in, c_out in pairwise([2 * lowest_first[0], *lowest_first]):
            self.convs.append(nn.Conv2d(c_in, c_out, 3, padding=1))
            self.norms.append(group_norm(c_out, groups=None, eps=1e-5))
        self.conv_out = nn.Conv2d(lowest_first[-1], channels, 3, padding=1)
        _initialise(self, slope=0.0)

    def draw(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        rows = torch.full((len(z),), self.classes, device=z.device) if labels is None else labels
        h = linear(torch.cat([z, self.label(rows)], dim=1), self.from_z).unflatten(1, (-1, _BASE, _BASE))
        h = normalised(h, self.norm_z, silu=True)
        for level, (layer, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            h = F.interpolate(h, scale_factor=2.0) if level else h
            h = normalised(conv(h, layer), norm, silu=True)
        return self.pyramid.crop(conv(h, self.conv_out).float().tanh())

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.draw(z, labels)

    def hide(self, labels: Tensor, where: Tensor) -> Tensor:
        return labels.masked_fill(where, self.classes)


class Discriminator(nn.Module):
    """D(x [N,C,size,size], y [N]) -> logit that x is real: float32 [N]. Every convolution but the first halves."""

    def __init__(self, *, channels: int, size: int, classes: int, width: int) -> None:
        super().__init__()
        self.pyramid = Pyramid(size, width=width, base=_BASE)
        widths = self.pyramid.widths
        features = 2 * widths[-1]
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        halving = pairwise([*widths, features])
        self.convs = nn.ModuleList(nn.Conv2d(c_in, c_out, 4, stride=2, padding=1) for c_in, c_out in halving)
        self.to_features = nn.Linear(features * (_BASE // 2) ** 2, features)
        self.logit = nn.Linear(features, 1)
        _initialise(self, slope=_SLOPE)
        self.label = zero(nn.Embedding(classes + 1, features))

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        h = F.leaky_relu(self.conv_in(self.pyramid.pad(x)), _SLOPE)
        for layer in self.convs:
            h = F.leaky_relu(layer(h), _SLOPE)
        phi = F.leaky_relu(self.to_features(h.flatten(1)), _SLOPE).float()
        return self.logit(phi).float()[:, 0] + (self.label(rows) * phi).sum(dim=1)


def _initialise(network: nn.Module, *, slope: float) -> None:
    """Keep the variance from layer to layer (He et al. 2015): else z, and differences of images, fade on their way."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, a=slope)
            nn.init.zeros_(cast(Tensor, module.bias))


class Adversaries(Conditional):
    """Generator and discriminator in training. The generator alone is the model."""

    def __init__(self, generator: Generator, discriminator: Discriminator, *, r1_gamma: float) -> None:
        super().__init__()
        self.generator, self.discriminator, self.r1_gamma = generator, discriminator, r1_gamma

    def forward(self, x: Tensor, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return loss_D + loss_G, then loss_D, loss_G, R1, D(x) and D(G(z)) of each image: float32 [N,6].

        One backward pass gives both networks their own gradients: loss_D does not reach the generator, because G(z) is
        detached there, and loss_G does not reach the weights of the discriminator, because they are.
        """
        D = self.discriminator
        y = torch.full((len(x),), self.generator.classes, device=x.device) if labels is None else labels
        fake = self.generator(z, labels)

        real = x.detach().requires_grad_(torch.is_grad_enabled())
        D_real, D_fake = D(real, y), D(fake.detach(), y)
        r1 = self._r1(D_real, real)
        loss_D = F.softplus(-D_real) + F.softplus(D_fake) + 0.5 * self.r1_gamma * r1

        frozen = {name: weight.detach() for name, weight in D.named_parameters()}
        loss_G = F.softplus(-functional_call(D, frozen, (fake, y)))
        return torch.stack([loss_D + loss_G, loss_D, loss_G, r1, D_real, D_fake], dim=1)

    def _r1(self, D_real: Tensor, real: Tensor) -> Tensor:
        """Return |grad_x D(x)|^2 of each image: [N]."""
        if not self.r1_gamma or not torch.is_grad_enabled():
            return torch.zeros_like(D_real)
        (gradient,) = torch.autograd.grad(D_real.sum(), real, create_graph=True)
        return gradient.float().square().flatten(1).sum(dim=1)

    def hide(self, labels: Tensor, where: Tensor) -> Tensor:
        return self.generator.hide(labels, where)
