"""Training of a model that draws directly: the network itself computes the losses, from images and latent noise."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm.model_spec import Spec
from ddpm.training.methods.method import Drawn, Images


class Direct:
    """The network returns the loss and the terms of each image, see `Autoencoder.forward` and `Adversaries.forward`."""

    def __init__(self, spec: Spec, *, terms: tuple[str, ...]) -> None:
        self.terms, self._latent_shape = terms, spec.noise_shape

    def arguments(self, images: Images) -> tuple[object, ...]:
        return images.x_0, torch.zeros(len(images.x_0), *self._latent_shape, device=images.x_0.device), images.condition

    def draw(self, shape: torch.Size, device: torch.device, layout: torch.memory_format) -> Drawn:
        n = shape[0]
        return Drawn(torch.randn(n, *self._latent_shape, device=device), torch.ones(n, device=device))

    def losses(self, network: Callable[..., Tensor], images: Images, drawn: Drawn, rows: slice) -> Tensor:
        return network(images.x_0, drawn.noise[rows], images.condition)

    def means(self, values: Tensor, drawn: Drawn) -> Tensor:
        sums = values[:, 1:].sum(dim=0)
        return torch.stack([sums, torch.full_like(sums, len(values))])

    def learn(self, values: Tensor, drawn: Drawn, *, skipped: Tensor) -> None:
        pass
