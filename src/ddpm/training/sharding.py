"""Division of a training step among processes: the images of each process, and the exchange of gradients.

Every process generates the random numbers of the whole batch and uses its part, so that they do not depend on the
number of processes or accumulation steps.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from ddpm.compute.hardware import Precision
from ddpm.compute.processes import processes, processes_here, rank
from ddpm.errors import UserError

Parallel = Literal["ddp", "fsdp", "hybrid"]
Gradients = Literal["float32", "bf16"]


def parts_of(batch: int, *, device_batch: int | None) -> list[slice]:
    """Return the parts of a global batch that this process computes in turn, each of at most `device_batch` images.

    All processes have the same number of parts, whose sizes differ by at most one image.
    Raises UserError if a part would have no images.
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


def shard(
    network: nn.Module, *, parallel: Parallel, precision: Precision = "float32", gradients: Gradients = "float32"
) -> None:
    """Shard the network (FSDP, Zhao et al. 2023): each process stores a part of each parameter.

    With `hybrid` the processes of a machine share a network, and machines have the same parts: then only gradients are
    exchanged between machines, in a device mesh of machines x processes. Each stage of the network is exchanged at
    once. In bf16 weights are gathered in bf16, which autocast would make of them; gradients are added up in the type
    `gradients`. Parameters must be equal in all processes before.
    Raises UserError if machines have different numbers of processes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # takes half a second to import

    shape, names = (processes(),), ("shard",)
    if parallel == "hybrid" and processes_here() < processes():
        if processes() % processes_here():
            raise UserError(
                f"runtime.parallel is hybrid, but {processes()} processes are not a multiple of the "
                f"{processes_here()} of this machine; start the same number on each machine, or set it to fsdp"
            )
        shape, names = (processes() // processes_here(), processes_here()), ("replicate", "shard")  # type: ignore[assignment]
    mesh = init_device_mesh(next(network.parameters()).device.type, shape, mesh_dim_names=names)
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None,
        reduce_dtype=torch.bfloat16 if gradients == "bf16" else torch.float32,
        cast_forward_inputs=False,  # times would lose digits
    )
    for stage in _stages(network):
        fully_shard(stage, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)


def _stages(network: nn.Module) -> list[nn.Module]:
    """Return the parts of the network that are exchanged at once, last ones first."""
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    return [stage for stages in reversed(lists) for stage in stages]


def compile_steps(network: nn.Module) -> None:
    """Compile the network for batches of a fixed shape. Call this after `shard`, and before `replicated`.

    A network that DDP wraps is compiled as a whole, as PyTorch advises: the compiler then cuts it where DDP exchanges
    gradients. Of a sharded one each stage's computation is compiled: gathering and freeing weights, which no graph can
    contain, happens in hooks around it.
    """
    if not is_sharded(network):
        network.compile(dynamic=False)
        return
    stages = _stages(network)
    # All stages have the same code, and the compiler gives up a function after few versions of it.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * len(stages))
    for stage in stages:
        stage.forward = torch.compile(stage.forward, dynamic=False)


def is_sharded(network: nn.Module) -> bool:
    """Return whether `shard` was called on the network."""
    return hasattr(network, "set_requires_gradient_sync")


def replicated(
    network: nn.Module, example: Callable[[], tuple[object, ...]], *, gradients: Gradients = "float32"
) -> nn.Module:
    """Return a network whose gradients are the mean over all processes: itself if sharded or alone, otherwise in DDP.

    `example` returns a valid input of the size of those in training, for which a compiled network is then ready; only
    DDP needs it. With `gradients` bf16, DDP sends half of the bytes.
    """
    if processes() == 1 or is_sharded(network):
        return network
    parallel = DistributedDataParallel(network)
    if gradients == "bf16":
        parallel.register_comm_hook(None, default_hooks.bf16_compress_hook)
    # DDP regroups the gradients after its first backward pass, which changes the order of summation. A first pass here
    # makes that order the same in all steps, also after a restart.
    outputs = parallel(*example())
    torch.stack([each.sum() for each in ([outputs] if isinstance(outputs, Tensor) else outputs)]).sum().backward()
    network.zero_grad(set_to_none=True)
    return parallel


@contextmanager
def accumulating(network: nn.Module, *, last: bool) -> Iterator[None]:
    """Exchange gradients of the passes inside only if this is the `last` part of a step."""
    if is_sharded(network):
        network.set_requires_gradient_sync(last)  # type: ignore[operator]
    alone = isinstance(network, DistributedDataParallel) and not last
    with network.no_sync() if alone else nullcontext():  # type: ignore[operator]
        yield


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor gathered (all processes must call this), and any other tensor unchanged."""
    return tensor.full_tensor() if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def is_dtensor(tensor: Tensor) -> bool:
    """Return whether the tensor is one of a sharded network, without the import that names its type."""
    return hasattr(tensor, "full_tensor")


def placed_like(value: Tensor, reference: Tensor) -> Tensor:
    """Return `value` sharded like `reference`; every process must have the whole value, so nothing is sent."""
    if not is_dtensor(reference):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(reference, DTensor)
    value = value.to(reference.device)
    return distribute_tensor(value, reference.device_mesh, reference.placements, src_data_rank=None)


def require_same(number: int, *, what: str) -> None:
    """Raise UserError in all processes if `number` is not the same in all."""
    if processes() == 1:
        return
    ends = torch.tensor([number, -number])
    dist.all_reduce(ends, dist.ReduceOp.MAX)
    if ends[0] != -ends[1]:
        raise UserError(
            f"the processes disagree on {what}: {-int(ends[1])} and {int(ends[0])}; they must see the same folders, "
            "so put the project on a disk that all machines share"
        )
