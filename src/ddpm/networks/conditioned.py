"""The interface of a conditioned network for training, guidance and sampling."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class Conditional(nn.Module, ABC):
    """A network whose samples may have a condition, which training hides from some of them."""

    @abstractmethod
    def hide(self, condition: Any, where: Tensor, /) -> Any:
        """Return the condition without those of the samples for which `where` (bool [N]) is true."""


class DirectNetwork(Conditional, ABC):
    """A network that draws an image from a latent by one evaluation: the decoder of a VAE, the generator of a GAN."""

    @abstractmethod
    def draw(self, z: Tensor, condition: Any = None, /) -> Tensor:
        """Return the images of latents [N, *noise_shape] (see `Spec`), standard normal ones: float32 [N, C, *shape]."""


class ConditionedNetwork(Conditional, ABC):
    """(x [N, C, *shape], c_noise [N], condition, augmentation) -> prediction of the shape of x, with 2C channels for a
    variance.

    A condition has one row per sample. Only the network and the data know what it means; all other code passes it on.
    None means that no sample has a condition. `augmentation`, [N, K] numbers that describe how training changed each
    sample, exists only in training; None means that no sample was changed.
    """

    def read_condition(self, condition: Any, n: int, /) -> Any:
        """Return what the network reads of the condition of n samples and what depends on nothing else.

        `forward` takes it instead of the condition, with the same result to the bit: a sampling computes it once.
        """
        return condition

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, condition: Any = None, augmentation: Tensor | None = None, /) -> Tensor: ...
