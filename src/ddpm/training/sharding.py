"""One step's work, divided: which images of the global batch are whose, and how gradients and losses become one.

Every process draws the random numbers of the whole batch and keeps its part, so that neither the number of processes
nor the number of accumulation steps is seen in them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ddpm.compute.processes import processes, rank
from ddpm.errors import UserError

Parallel = Literal["ddp", "fsdp"]


def parts_of(batch: int, *, device_batch: int | None) -> list[slice]:
    """The parts of a global batch that this process computes one after the other, each of at most `device_batch`.

    All processes have equally many, and their sizes differ by one image at most.
    Raises UserError where a process would have a part without images.
    """
    per_process = -(-batch // processes())
    steps = -(-per_process // (device_batch or per_process))
    n = processes() * steps
    if n > batch:
        raise UserError(
            f"train.batch_size is {batch}, which {processes()} processes with {steps} accumulation steps each cannot "
            "share; raise it or runtime.device_batch, or start fewer processes"
        )
    bounds = [batch * k // n for k in range(n + 1)]
    mine = range(rank() * steps, (rank() + 1) * steps)
    return [slice(bounds[k], bounds[k + 1]) for k in mine]


def shard(network: nn.Module) -> None:
    """Every process keeps its share of each parameter from here on (FSDP); a stage of the network is one exchange.

    Zhao et al. 2023. Parameters must be equal in all processes before.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # half a second, which a training without it does not pay

    mesh = init_device_mesh(next(network.parameters()).device.type, (processes(),))
    for module in reversed(list(network.modules())):
        if isinstance(module, nn.ModuleList):
            for stage in module:
                fully_shard(stage, mesh=mesh)
    fully_shard(network, mesh=mesh)


def is_sharded(network: nn.Module) -> bool:
    """Whether `shard` was called on it."""
    return hasattr(network, "set_requires_gradient_sync")


def replicated(network: nn.Module, example: Callable[[], tuple[Tensor | None, ...]]) -> nn.Module:
    """The network whose gradients are the mean over all processes: itself if it is sharded or alone, else in DDP.

    `example` gives a valid input; only DDP asks for it.
    """
    if processes() == 1 or is_sharded(network):
        return network
    parallel = DistributedDataParallel(network)
    # DDP arranges the gradients anew after its first backward pass, and with them the order of summation. A rehearsal
    # makes it the same in every step, in those after a restart too.
    parallel(*example()).sum().backward()
    network.zero_grad(set_to_none=True)
    return parallel


@contextmanager
def accumulating(network: nn.Module, *, last: bool) -> Iterator[None]:
    """Forward and backward passes inside exchange gradients only in the `last` part of a step."""
    if is_sharded(network):
        network.set_requires_gradient_sync(last)  # type: ignore[operator]
    alone = isinstance(network, DistributedDataParallel) and not last
    with network.no_sync() if alone else nullcontext():  # type: ignore[operator]
        yield


def whole_batch(values: list[Tensor], parts: list[slice], batch: int) -> Tensor:
    """Per-image values of this process's parts -> those of the global batch [B], the same in every process."""
    mine = torch.cat(values)
    if processes() == 1:
        return mine
    all_values = mine.new_zeros(batch)
    all_values[parts[0].start : parts[-1].stop] = mine
    dist.all_reduce(all_values)
    return all_values


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor, gathered (all processes must ask); any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def placed_like(value: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor, sharded as `reference` is; every process has the same value, so nothing is sent."""
    if not hasattr(reference, "full_tensor"):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(reference, DTensor)
    value = value.to(reference.device)
    return distribute_tensor(value, reference.device_mesh, reference.placements, src_data_rank=None)


def require_same(number: int, *, what: str) -> None:
    """Raises UserError in every process where `number` is not the same in all."""
    if processes() == 1:
        return
    ends = torch.tensor([number, -number])
    dist.all_reduce(ends, dist.ReduceOp.MAX)
    if ends[0] != -ends[1]:
        raise UserError(
            f"the processes disagree on {what}: {-int(ends[1])} and {int(ends[0])}; they must see the same folders, "
            "so put the project on a disk that all machines share"
        )
