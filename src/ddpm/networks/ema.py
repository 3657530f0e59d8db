"""The moving average of the weights, as a network of its own."""

import copy

import torch
from torch import nn


class Ema:
    """An exponential moving average whose memory is a half-life in images.

    It is never swapped into the training network: sample from `.network`.
    Karras et al. 2022, Tab. 7 and its code: the half-life is at most 5 % of the images seen, so that the
    average follows quickly at the start.
    """

    def __init__(self, network: nn.Module, *, halflife_images: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.halflife_images = halflife_images

    @torch.no_grad()
    def update(self, network: nn.Module, *, images_seen: int, batch_size: int) -> None:
        """Moves the average towards the weights after a step of `batch_size` images, `images_seen` in all."""
        halflife = min(self.halflife_images, 0.05 * images_seen)
        beta = 0.5 ** (batch_size / max(halflife, 1e-8))
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - beta)
        for average, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            average.copy_(buffer)
