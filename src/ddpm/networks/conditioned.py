"""The interface of a conditioned network for training, guidance and sampling."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class ConditionedNetwork(nn.Module, ABC):
    """(x [N, C, *shape], c_noise [N], condition, augmentation) -> prediction of the shape of x, with 2C channels for a
    variance.

    A condition has one row per sample. Only the network and the data know what it means; all other code passes it on.
    None means that no sample has a condition. `augmentation`, [N, K] numbers that describe how training changed each
    sample, exists only in training; None means that no sample was changed.
    """

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, condition: Any = None, augmentation: Tensor | None = None, /) -> Tensor: ...

    @abstractmethod
    def hide(self, condition: Any, where: Tensor, /) -> Any:
        """Return the condition without those of the samples for which `where` (bool [N]) is true."""
