"""A convolutional variational autoencoder: q_phi(z | x, y), p_theta(x | z, y).  Kingma and Welling 2014.

Its decoder has one learned standard deviation, which weighs reconstruction against KL as in the sigma-VAE of Rybkin et
al. 2021, so that no weight of the KL must be chosen.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.networks.blocks import ResidualBlock, group_norm, normalised
from ddpm.networks.conditioned import DirectNetwork
from ddpm.networks.kernels import conv, linear
from ddpm.networks.pyramid import Pyramid

_STEPS = 10.0
"""Factor of the parameter behind log sigma: Adam moves a parameter by about the learning rate per step, and log sigma
has to fall by one or two in the first few hundred steps."""
_LOG_VAR = 10.0
"""Largest size of the log variance of q, so that its exponential stays finite in the first steps."""


class Autoencoder(DirectNetwork):
    """Encoder and decoder of images [N,C,size,size] and labels [N], or None for samples without a label.

    The latent z is a vector [N,L] for `latent_size` 1, and otherwise [N,L,s,s] with s = `latent_size`.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        classes: int,
        width: int,
        blocks: int,
        latent_channels: int,
        latent_size: int,
    ) -> None:
        super().__init__()
        self.classes, self.size = classes, size
        self.pyramid = Pyramid(size, width=width, base=4 if latent_size == 1 else latent_size)
        c_emb = 4 * width
        self.label = nn.Embedding(classes + 1, c_emb)
        widths, base = self.pyramid.widths, self.pyramid.base
        residual = partial(
            ResidualBlock,
            c_emb=c_emb,
            dropout=0.0,
            embedding="scale_shift",
            norm=partial(group_norm, groups=None, eps=1e-5),
        )

        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList()
        for level, c in enumerate(widths):
            before = widths[max(0, level - 1)]
            first = residual(before, c, resample="down" if level else "none")
            self.encoder.extend([first, *(residual(c, c) for _ in range(blocks - 1))])
        c = widths[-1]
        self.norm_z = group_norm(c, groups=None, eps=1e-5)
        features = c * base**2
        vector = latent_size == 1
        self.to_q = (
            nn.Linear(features, 2 * latent_channels) if vector else nn.Conv2d(c, 2 * latent_channels, 3, padding=1)
        )
        self.from_z = nn.Linear(latent_channels, features) if vector else nn.Conv2d(latent_channels, c, 3, padding=1)

        self.decoder = nn.ModuleList()
        for level, c in reversed(list(enumerate(widths))):
            after = widths[max(0, level - 1)]
            last = residual(c, after, resample="up" if level else "none")
            self.decoder.extend([*(residual(c, c) for _ in range(blocks - 1)), last])
        self.norm_out = group_norm(widths[0], groups=None, eps=1e-5)
        self.conv_out = nn.Conv2d(widths[0], channels, 3, padding=1)
        self.steps_of_log_sigma = nn.Parameter(torch.zeros(()))

    @property
    def log_sigma(self) -> Tensor:
        """Log of the decoder's standard deviation, for pixels in [-1, 1]: []."""
        return _STEPS * self.steps_of_log_sigma

    def q(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of q_phi(z | x, y), of the latent's shape, float32."""
        emb = self._embedded(labels, x)
        h = conv(self.pyramid.pad(x), self.conv_in)
        for block in self.encoder:
            h = block(h, emb)
        h = normalised(h, self.norm_z, silu=True)
        out = linear(h.flatten(1), self.to_q) if isinstance(self.to_q, nn.Linear) else conv(h, self.to_q)
        mean, log_var = out.float().chunk(2, dim=1)
        return mean, log_var.clamp(-_LOG_VAR, _LOG_VAR)

    def draw(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the mean of p_theta(x | z, y): [N,C,size,size], float32."""
        emb = self._embedded(labels, z)
        if isinstance(self.from_z, nn.Linear):
            h = linear(z, self.from_z).unflatten(1, (-1, self.pyramid.base, self.pyramid.base))
        else:
            h = conv(z, self.from_z)
        for block in self.decoder:
            h = block(h, emb)
        out = conv(normalised(h, self.norm_out, silu=True), self.conv_out)
        return self.pyramid.crop(out.float())

    def forward(self, x: Tensor, eps: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return -ELBO, reconstruction error and KL of each image, in nats per dimension: float32 [N,3].

        z = mu + sigma_z eps (Eq. 10 there), and the ELBO is Eq. 3.
        """
        mean, log_var = self.q(x, labels)
        z = mean + (0.5 * log_var).exp() * eps
        x_hat = self.draw(z, labels)
        dimensions = x[0].numel()
        error = (x - x_hat).square().flatten(1).mean(dim=1)
        reconstruction = 0.5 * (error * (-2 * self.log_sigma).exp() + math.log(2 * math.pi)) + self.log_sigma
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).flatten(1).sum(dim=1) / dimensions
        return torch.stack([reconstruction + kl, reconstruction, kl], dim=1)

    def hide(self, labels: Tensor, where: Tensor) -> Tensor:
        return labels.masked_fill(where, self.classes)

    def _embedded(self, labels: Tensor | None, x: Tensor) -> Tensor:
        """Return the embedding of the labels, or of samples without one: [N, c_emb]."""
        rows = torch.full((len(x),), self.classes, device=x.device) if labels is None else labels
        return F.silu(self.label(rows))
