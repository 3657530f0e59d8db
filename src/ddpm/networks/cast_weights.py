"""A copy of a network whose weights already have the type to which autocast would cast them in every call."""

import copy

import torch
from torch import nn

from ddpm.networks.blocks import ResidualBlock, Upsample


def with_cast_weights(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy with convolutions and linear layers in `dtype`; it shares all other weights with the network.

    Under autocast it computes the same to the bit, and casts no weight. (autocast keeps casts only of weights with
    gradients, and those only until its context ends.) It does not follow later changes of the weights.
    """
    replaced: dict[int, object] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    summed = _summed_before_the_cast(network)
    with torch.inference_mode(False), torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer not in summed:
                for weight in layer.parameters(recurse=False):
                    replaced[id(weight)] = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
        return copy.deepcopy(network, replaced)


def _summed_before_the_cast(network: nn.Module) -> set[nn.Module]:
    """Return the layers whose weights `kernels.upsampled_conv` adds up in float32: on a CPU those after upsampling."""
    if next(network.parameters()).device.type != "cpu":
        return set()
    blocks = list(network.modules())
    residual = {block.conv1 for block in blocks if isinstance(block, ResidualBlock) and block.resample == "up"}
    return residual | {block.conv for block in blocks if isinstance(block, Upsample)}
