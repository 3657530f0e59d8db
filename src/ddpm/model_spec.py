"""The specification of a model: images, classes, process, objective and network, as plain typed values."""

from collections.abc import Mapping
from typing import Any

from torch import Size

from ddpm.diffusion.settings import Objective, Schedule
from ddpm.networks.settings import Convention, Network
from ddpm.networks.unet import UNet, shapes_of
from ddpm.settings import require, section

MAX_CHANNELS = 2**16
MAX_SIZE = 4096
"""Largest height and width of an image in pixels."""
MAX_AUGMENTATION = 256


@section
class Spec:
    """Everything that is needed to rebuild a model and to sample from it.

    Raises ValueError if channels or size are out of range, or if a model without classes is not unconditional.
    """

    channels: int
    size: int
    """Height and width of an image in pixels."""
    classes: tuple[str, ...]
    """Names; a label is an index into them. Empty: the model knows no labels."""
    unconditional: bool
    """The model can be evaluated without a label, which guidance needs."""
    schedule: Schedule
    objective: Objective
    network: Network
    convention: Convention
    augmentation: int = 0
    """How many numbers describe the augmentation of a training image; the network takes them as an input. 0: none."""

    def __post_init__(self) -> None:
        for name, most in (("channels", MAX_CHANNELS), ("size", MAX_SIZE)):
            value = getattr(self, name)
            require(1 <= value <= most, f"{name} is {value}, expected 1 to {most}")
        require(
            0 <= self.augmentation <= MAX_AUGMENTATION,
            f"augmentation is {self.augmentation}, expected 0 to {MAX_AUGMENTATION}",
        )
        require(
            self.unconditional or len(self.classes) > 0,
            "unconditional is false, but a model without classes takes no label; expected true",
        )


def architecture_of(spec: Spec) -> Mapping[str, Any]:
    """Return the arguments of `UNet`."""
    return vars(spec.network) | {
        "channels": spec.channels,
        "out_channels": (2 if spec.objective.learned_variance else 1) * spec.channels,
        "size": spec.size,
        "classes": len(spec.classes),
        "augmentation": spec.augmentation,
        "convention": spec.convention,
    }


def build_network(spec: Spec) -> UNet:
    """Return an untrained network."""
    return UNet(**architecture_of(spec))


def shapes_of_weights(spec: Spec, *, tensors: int) -> dict[str, Size]:
    """Return the shape of each of the network's weights, by name, without allocating them.

    Raise ValueError, ArithmeticError, TypeError or RuntimeError for a network too large for a file of `tensors`
    tensors.
    """
    network = spec.network
    require(network.blocks <= tensors, f"network.blocks is {network.blocks}, but the file has {tensors} tensors")
    return shapes_of(architecture_of(spec))
