"""The shapes of a network's weights, without memory or random numbers for them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


def shapes_of(build: Callable[[], nn.Module]) -> dict[str, torch.Size]:
    """Return the shapes of the weights of the network that `build` returns, by name."""
    with torch.device("meta"), _Undrawn():
        return {name: tensor.shape for name, tensor in build().state_dict().items()}


class _Undrawn(TorchFunctionMode):
    """Skips the initialisation of weights, for which torch on the meta device imports its compiler: seconds."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(function, "__module__", None) == nn.init.__name__:
            return None
        return function(*args, **kwargs or {})
