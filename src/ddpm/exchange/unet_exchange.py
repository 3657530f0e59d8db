"""This project's U-Net as a `UNet2DModel` of diffusers, and back: the options and the weights, as plain values.

Both ways the network gives the same output up to rounding, at the same t and the same labels. (Where t counts the
steps of a chain, theirs starts at 0 and ours at 1: see `with_time_shifted`.) Needs no diffusers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ddpm.exchange import unet_options as options
from ddpm.exchange import unet_weights as weights
from ddpm.networks.blocks import timestep_frequencies
from ddpm.networks.unet import Convention, shapes_of

Weights = dict[str, Tensor]


def from_diffusers(
    config: Mapping[str, Any], state: Mapping[str, Tensor], *, null_label: bool = False
) -> tuple[dict[str, Any], Weights]:
    """The arguments of `UNet` and its weights (float32), from what is in config.json and in the weights' file.

    `null_label`: the last class means "no label". Otherwise all are classes and no label adds nothing to the
    embedding, which such a network was never trained for.

    Raises ExchangeError.
    """
    architecture = options.from_theirs(config, null_label=null_label)
    read = weights.from_theirs(
        state,
        shapes_of(architecture),
        levels=len(architecture["multipliers"]),
        blocks=architecture["blocks"],
        sines_first=not config.get("flip_sin_to_cos", True),
        pad_label=not null_label,
    )
    return architecture, read


def to_diffusers(architecture: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Weights]:
    """What config.json and the weights' file hold, from the arguments of a `UNet` and its weights.

    A network of K classes becomes one of K + 1, whose last means "no label".

    Raises ExchangeError.
    """
    config = options.to_theirs(architecture)
    return config, weights.to_theirs(state, levels=len(architecture["multipliers"]), blocks=architecture["blocks"])


def with_time_shifted(architecture: Mapping[str, Any], state: Mapping[str, Tensor], *, by: float) -> Weights:
    """The weights of a network that does at t what this one does at t + `by`.

    The sinusoids of t + by are those of t, each pair turned by an angle, and the first layer takes up the turn.
    """
    convention = architecture.get("convention", Convention())
    frequencies = timestep_frequencies(architecture["width"], shift=convention.frequency_shift)
    return dict(state) | {"time.0.weight": weights.turned(state["time.0.weight"], by * frequencies.to(torch.float64))}
