"""What a model is: its images and classes, its process, objective and network, as plain typed values."""

from collections.abc import Mapping
from typing import Any

from torch import Size

from ddpm.diffusion.settings import Objective, Schedule
from ddpm.networks.settings import Convention, Network
from ddpm.networks.unet import UNet, shapes_of
from ddpm.settings import require, section

MAX_CHANNELS = 2**16
MAX_SIZE = 4096
"""Pixels; what a data set may have."""


@section
class Spec:
    """All that rebuilds a model, and that those who draw with it must know.

    Raises ValueError for channels or a size that no data set has, or where classes and `unconditional` contradict.
    """

    channels: int
    size: int
    """Height and width of an image in pixels."""
    classes: tuple[str, ...]
    """Names; a label is an index into them. Empty: the model knows no labels."""
    unconditional: bool
    """The model can be asked without a label, as guidance asks it."""
    schedule: Schedule
    objective: Objective
    network: Network
    convention: Convention

    def __post_init__(self) -> None:
        for name, most in (("channels", MAX_CHANNELS), ("size", MAX_SIZE)):
            value = getattr(self, name)
            require(1 <= value <= most, f"{name} is {value}, expected 1 to {most}")
        require(
            self.unconditional or len(self.classes) > 0,
            "unconditional is false, but a model without classes takes no label; expected true",
        )


def architecture_of(spec: Spec) -> Mapping[str, Any]:
    """The arguments of `UNet`."""
    return vars(spec.network) | {
        "channels": spec.channels,
        "out_channels": (2 if spec.objective.learned_variance else 1) * spec.channels,
        "size": spec.size,
        "classes": len(spec.classes),
        "convention": spec.convention,
    }


def build_network(spec: Spec) -> UNet:
    """An untrained network."""
    return UNet(**architecture_of(spec))


def shapes_of_weights(spec: Spec, *, tensors: int) -> dict[str, Size]:
    """The shape of each of the network's weights, by name; no memory is taken for them.

    Raises ValueError, ArithmeticError, TypeError or RuntimeError for a network that no file of `tensors` tensors can
    hold, before time is spent on it.
    """
    network = spec.network
    require(network.blocks <= tensors, f"network.blocks is {network.blocks}, but the file has {tensors} tensors")
    return shapes_of(architecture_of(spec))
