"""The tensors of a training's state by name, and the piece of each that one process has and stores."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from ddpm.compute.processes import processes, rank
from ddpm.networks.ema import local
from ddpm.training.loop import State
from ddpm.training.sharding import is_dtensor

MOMENTS = ({"step", "exp_avg", "exp_avg_sq"}, {"step", "exp_avg"})
"""Tensors that AdamW and Muon store for a parameter. The fingerprint contains which of them is used."""


@dataclass(frozen=True)
class Piece:
    """A box of a tensor: the part of it that a process has, or that a file contains."""

    values: Tensor
    offset: tuple[int, ...]
    """Position of the first value in the whole tensor, per dimension."""


def tensors_of(state: State) -> dict[str, Tensor]:
    """Return all tensors of the state by name, none of them copied; those of a sharded state are sharded."""
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in state.ema.network.state_dict().items()}
    tensors |= {f"times.{name}": value for name, value in state.times.items()}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    return {name: tensor.detach() for name, tensor in tensors.items()}


def parameters_of(state: State) -> list[Parameter]:
    """Return the parameters in the order of the optimizer, by which their moments are numbered."""
    return [p for group in state.optimizer.param_groups for p in group["params"]]


def local_piece(tensor: Tensor) -> Piece:
    """Return what this process has of the tensor, as a view: all of it, unless the tensor is sharded."""
    offset, shape = [0] * tensor.ndim, list(tensor.shape)
    if not is_dtensor(tensor):
        return Piece(tensor, tuple(offset))
    for placement, number, coordinate in _mesh_of(tensor):
        if placement.is_shard():
            each = -(-shape[placement.dim] // number)  # torch shards as torch.chunk does
            start = min(coordinate * each, shape[placement.dim])
            offset[placement.dim] += start
            shape[placement.dim] = min(each, shape[placement.dim] - start)
    values = local(tensor)
    assert list(values.shape) == shape, f"a shard has the shape {list(values.shape)}, expected {shape}"
    return Piece(values, tuple(offset))


def own_share(tensors: dict[str, Tensor]) -> dict[str, Piece]:
    """Return the pieces that this process stores, so that all processes together store each value once.

    If several processes have a tensor, the one with the fewest bytes so far stores it, from the largest tensor to the
    smallest. Nothing is sent: all processes compute the same division from names and shapes.
    """
    stored: dict[int, list[int]] = {}  # bytes per replica, for each number of replicas
    share = {}
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].nbytes, item[0])):
        number, own = _replicas(tensor)
        loads = stored.setdefault(number, [0] * number)
        least = loads.index(min(loads))
        loads[least] += tensor.nbytes
        if least == own and (piece := local_piece(tensor)).values.numel():
            share[name] = piece
    return share


def _replicas(tensor: Tensor) -> tuple[int, int]:
    """Return how many processes have the values that this one has of the tensor, and its number among them."""
    if not is_dtensor(tensor):
        return processes(), rank()
    copies = [(number, at) for placement, number, at in _mesh_of(tensor) if not placement.is_shard()]
    own = 0
    for number, coordinate in copies:
        own = own * number + coordinate
    return math.prod(number for number, _ in copies), own


def _mesh_of(tensor: Tensor) -> list[tuple[Any, int, int]]:
    """Return placement, number of processes and this process's coordinate for each dimension of the mesh."""
    from torch.distributed.tensor import DTensor

    assert isinstance(tensor, DTensor)
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None, "this process is not in the mesh"
    return list(zip(tensor.placements, tensor.device_mesh.shape, coordinate, strict=True))
