"""The moving average of the weights, as a separate network."""

import copy

import torch
from torch import Tensor, nn


class Ema:
    """An exponential moving average of the weights, with a half-life in images.

    It is never copied into the training network: sample from `.network`.
    The half-life is at most 5 % of the images seen, so that the average forgets untrained weights quickly, unless the
    network is `trained` already: Karras et al. 2022, Tab. 7 and its code.
    """

    def __init__(self, network: nn.Module, *, halflife_images: float, trained: bool = False) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.halflife_images = halflife_images
        self.trained = trained
        self._listed: tuple[nn.Module, list[Tensor], list[Tensor]] | None = None

    @torch.no_grad()
    def update(self, network: nn.Module, *, images_seen: int, batch_size: int, skipped: Tensor) -> None:
        """Move the average towards the weights, after a step of `batch_size` images and `images_seen` in total.

        It stays where it is if the step was `skipped` (bool [], on the device), which is not read here.
        """
        halflife = self.halflife_images if self.trained else min(self.halflife_images, 0.05 * images_seen)
        beta = 0.5 ** (batch_size / max(halflife, 1e-8))
        share = torch.full((), 1 - beta, device=skipped.device).masked_fill(skipped, 0)
        averages, weights = self._listed_once(network)
        if share.device.type == "cpu":
            torch._foreach_lerp_(averages, weights, [share] * len(averages))
        else:  # a few large operations instead of one for each parameter
            differences = torch._foreach_sub(weights, averages)
            torch._foreach_mul_(differences, share)
            torch._foreach_add_(averages, differences)
        for average, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            average.copy_(buffer)

    def _listed_once(self, network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """Return the averages and the weights; they are listed once, because that takes longer than moving them."""
        if self._listed is None or self._listed[0] is not network:
            averages, weights = ([local(p) for p in each.parameters()] for each in (self.network, network))
            self._listed = network, averages, weights
        return self._listed[1:]


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor, in the same memory, and any other tensor unchanged."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
