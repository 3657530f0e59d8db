"""The interface between the training loop and a method: what a step draws, and the losses of a part of its batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """The training images of a part of a batch."""

    x_0: Tensor
    """float32 [n,C,H,W] in [-1, 1]."""
    condition: Any
    """A row per image, or None."""
    numbers: Tensor | None
    """[n,K] numbers that describe the augmentation of each image, or None."""


@dataclass(frozen=True)
class Drawn:
    """The random numbers of a step, drawn for the whole batch: a part uses its rows."""

    noise: Tensor
    """[B, ...]: eps of diffusion, the latent noise of the other methods."""
    weights: Tensor
    """[B]: importance weights that make the mean loss unbiased; 1 unless t is drawn by importance."""
    t: Tensor | None = None
    """[B]: times of diffusion."""


class Method(Protocol):
    """Draws the random numbers of a step and computes the losses of a part of its batch."""

    terms: tuple[str, ...]
    """Names of the means that the curves have besides the loss."""

    def arguments(self, images: Images) -> tuple[object, ...]:
        """Return valid arguments of the network for these images, without the use of random numbers."""

    def draw(self, shape: torch.Size, device: torch.device, layout: torch.memory_format) -> Drawn:
        """Draw the random numbers of a step for a batch of this shape from torch's global generator."""

    def losses(self, network: Callable[..., Any], images: Images, drawn: Drawn, rows: slice) -> Tensor:
        """Return float32 [n, 1 + K]: the loss of each image, which training minimises, and K values for the curves.

        `images` are the `rows` of the batch. `network` computes in the precision of the training.
        """

    def means(self, values: Tensor, drawn: Drawn) -> Tensor:
        """Return, for each of `terms`, the sum over the batch and its count: float32 [2, len(terms)].

        `values` is [B, 1 + K], the result of `losses` for the whole batch.
        """

    def learn(self, values: Tensor, drawn: Drawn, *, skipped: Tensor) -> None:
        """Learn from the values [B, 1 + K] of a step, unless it was `skipped`: bool [], on the device."""
