"""The losses of the autoencoder of latent diffusion: pixel error, perceptual distance and KL divergence."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.diffusion.bound import gaussian_kl
from ddpm.model_spec import Spec
from ddpm.training.methods.direct import Direct
from ddpm.training.methods.method import Drawn, Images
from ddpm.training.settings import Autoencoder

ERRORS = ("reconstruction", "perceptual", "kl")
"""Names of the means that the curves have besides the loss, without a discriminator."""


class Perceptual(Protocol):
    """A distance between images as people see them."""

    @property
    def sha256(self) -> str:
        """Hash of everything that determines the distance: with another one it is another training."""

    def __call__(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Return the distance of x_hat from x, both [N,C,H,W] in [-1, 1]: float32 [N], with a gradient for x_hat."""


class Reconstruction(Direct):
    """The network returns x_hat, mean and log variance, and with a discriminator its logits.

    The loss of an image is the mean of |x - x_hat| over its values, plus `perceptual_weight` times the distance
    `perceptual(x, x_hat)`, plus `kl_weight` times the KL divergence of q(z | x) from N(0, I), in nats, divided by the
    number of the image's values: the loss of Rombach et al. 2022, divided by that number. A discriminator adds
    `adversarial_weight` times -D(x_hat), and learns by the hinge loss; both are means over patches.
    """

    def __init__(
        self,
        spec: Spec,
        settings: Autoencoder,
        *,
        perceptual: Perceptual | None,
        within: Callable[[], AbstractContextManager[object]],
    ) -> None:
        """`perceptual` is not None unless its weight is 0; it is computed `within` the precision of the training."""
        super().__init__(spec, terms=terms_of(settings))
        self._settings, self._perceptual, self._within = settings, perceptual, within

    def arguments(self, images: Images) -> tuple[object, ...]:
        return super().arguments(images)[:2]

    def losses(self, network: Callable[..., Any], images: Images, drawn: Drawn, rows: slice) -> Tensor:
        settings, x = self._settings, images.x_0
        x_hat, mean, log_var, *logits = network(x, drawn.noise[rows])
        reconstruction = (x - x_hat).abs().flatten(1).mean(dim=1)
        distance = torch.zeros_like(reconstruction)
        if settings.perceptual_weight:
            assert self._perceptual is not None
            with self._within():
                distance = self._perceptual(x, x_hat).float()
        zero = torch.zeros((), device=mean.device)
        kl = gaussian_kl(mean, log_var, zero, zero).flatten(1).sum(dim=1) / x[0].numel()
        loss = reconstruction + settings.perceptual_weight * distance + settings.kl_weight * kl
        terms = [reconstruction, distance, kl]
        if logits:
            real, fake, judged = (each.flatten(1) for each in logits)
            loss_D = (F.relu(1 - real) + F.relu(1 + fake)).mean(dim=1) / 2
            loss_G = -judged.mean(dim=1)
            loss = loss + loss_D + settings.adversarial_weight * loss_G
            terms += [loss_D, loss_G]
        return torch.stack([loss, *terms], dim=1)


def terms_of(settings: Autoencoder) -> tuple[str, ...]:
    """Return the names of the means that the curves have besides the loss."""
    return (*ERRORS, "loss_D", "loss_G") if settings.adversarial_weight else ERRORS
