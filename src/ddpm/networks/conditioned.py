"""What training, guidance and sampling ask of a network, whatever it is conditioned on."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class ConditionedNetwork(nn.Module, ABC):
    """(x [N, C, *shape], c_noise [N], condition) -> prediction of the shape of x, with 2C channels for a variance.

    A condition holds one row per sample. Only the network and the data know what it is; all others hand it on. None
    means that nothing is given to any sample.
    """

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, condition: Any = None, /) -> Tensor: ...

    @abstractmethod
    def hide(self, condition: Any, where: Tensor, /) -> Any:
        """The condition in which nothing is given to the samples where `where` (bool [N]) is true."""
