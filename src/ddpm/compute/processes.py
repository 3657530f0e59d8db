"""The processes of one stage: their ranks, their process group, and the division of work among them.

A launcher (torchrun, or `ddpm.compute.launch`) sets RANK and WORLD_SIZE; without them there is one process.
torch is imported inside the functions, because `workspace.run_stage` must change settings before.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from ddpm.compute.settings import Runtime
from ddpm.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TIMEOUT = timedelta(minutes=30)
"""Time after which a process considers the others lost; only rank 0 logs and writes, so it must be long."""

LAUNCHER_VARIABLE = "DDPM_WORKERS_OF"
"""Environment variable with the identity of the stage process that started a worker."""
STORE_VARIABLE = "DDPM_WORKERS_STORE"
"""Environment variable with the path of the file by which workers find each other; without it, rank 0 listens."""
_ROW_BYTES = 256


def is_worker() -> bool:
    """Return whether a launcher started this process, as one of several or as the only one."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """Return the number of this process in the stage, from 0; rank 0 writes all files and logs to MLflow."""
    return _number("RANK", 0)


def processes() -> int:
    """Return the number of processes of this stage, on all machines."""
    return _number("WORLD_SIZE", 1)


def processes_here() -> int:
    """Return the number of processes of this stage on this machine."""
    return _number("LOCAL_WORLD_SIZE", processes())


def leads() -> bool:
    """Return whether this process is rank 0, which writes."""
    return rank() == 0


def restarted() -> bool:
    """Return whether this worker replaces a lost one; it continues from checkpoints even if runtime.resume is never."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def any_of(*flags: bool) -> list[bool]:
    """Return for each flag whether it is set in any process; the result is the same in all processes."""
    if processes() == 1:
        return list(flags)
    import torch
    import torch.distributed as dist

    votes = torch.tensor(flags, dtype=torch.uint8)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return [bool(vote) for vote in votes]


def together() -> None:
    """Wait until every process has called this."""
    any_of(False)


def least_of(values: "Tensor") -> "Tensor":
    """Return the least of all processes' values, elementwise; the tensors are on the CPU and have the same shape."""
    if processes() == 1:
        return values
    import torch.distributed as dist

    least = values.clone()
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return least


def dealt(n: int, batch: int) -> Iterator[tuple[int, slice]]:
    """Divide n items among the processes in turn: yield (rank, rows) in order, `batch` rows at a time.

    The batches are those of a single process, so that they give the same numbers.
    """
    for number, start in enumerate(range(0, n, batch)):
        yield number % processes(), slice(start, min(start + batch, n))


def assembled(own: "dict[int, Tensor]", *, n: int, batch: int, everywhere: bool) -> "Tensor | None":
    """Gather the results of all processes: n rows in order, on the CPU. All processes must call this.

    `own` maps the first row of each batch of this process (see `dealt`) to its result. Returns the rows on rank 0, and
    if `everywhere` also on the other ranks, otherwise None there.
    """
    import torch
    import torch.distributed as dist

    if processes() == 1:
        return torch.cat([own[start] for start in sorted(own)])
    row, dtype = _row_of_rank_0(own[0] if leads() else None)  # the first batch is always rank 0's
    rows_here = torch.empty((n, *row), dtype=dtype) if leads() or everywhere else None
    for owner, rows in dealt(n, batch):
        piece = own[rows.start].contiguous() if owner == rank() else None
        if rows_here is None:
            if piece is not None:
                dist.send(piece, dst=0)
            continue
        if piece is not None:
            rows_here[rows] = piece
        if everywhere:
            dist.broadcast(rows_here[rows], src=owner)
        elif piece is None:
            dist.recv(rows_here[rows], src=owner)
    return rows_here


def _row_of_rank_0(rows: "Tensor | None") -> "tuple[list[int], torch.dtype]":
    """Return shape and type of a row of rank 0's `rows`, in all processes.

    It is sent as JSON in a tensor: torch would send a pickle, which can run code, over a port without authentication.
    """
    import torch
    import torch.distributed as dist

    text = torch.zeros(_ROW_BYTES, dtype=torch.uint8)
    if rows is not None:
        content = json.dumps([list(rows.shape[1:]), str(rows.dtype).removeprefix("torch.")]).encode()
        text[: len(content)] = torch.tensor(list(content), dtype=torch.uint8)
    dist.broadcast(text, src=0)
    row, dtype = json.loads(bytes(text.tolist()).rstrip(b"\0"))
    return row, getattr(torch, dtype)


def share_of(n: int) -> slice:
    """Return this process's part of n items; parts differ by at most one item."""
    return slice(n * rank() // processes(), n * (rank() + 1) // processes())


@contextmanager
def joined(runtime: Runtime) -> Iterator[None]:
    """Join the process group inside the block: gloo between CPUs, NCCL between GPUs.

    Tensors on the CPU can be exchanged in both.
    """
    import torch
    import torch.distributed as dist

    from ddpm.compute.hardware import choose_device, set_determinism

    set_determinism(runtime.deterministic)  # before the next lines start CUDA
    device = choose_device(runtime.device)
    if device.type == "mps" and processes() > 1:
        raise UserError("several processes cannot share MPS; start one, or set runtime.device to cpu")
    if device.type == "cuda":
        local, gpus = _number("LOCAL_RANK", 0), torch.cuda.device_count()
        if local >= gpus:
            raise UserError(
                f"process {local + 1} of this machine needs its own GPU, but there are {gpus}; start at most as many "
                "processes as GPUs"
            )
        torch.cuda.set_device(local)
    if _number("LOCAL_WORLD_SIZE", 0) == processes():
        _stay_on_this_machine()
    store = os.environ.get(STORE_VARIABLE)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        timeout=TIMEOUT,
        store=dist.FileStore(store, processes()) if store else None,
        rank=rank() if store else -1,
        world_size=processes() if store else -1,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def _stay_on_this_machine() -> None:
    """Let gloo and NCCL, which have no authentication, listen only on the loopback interface."""
    import psutil

    names = [name for name, held in psutil.net_if_addrs().items() if any(at.address == "127.0.0.1" for at in held)]
    if not names:
        raise UserError(
            "this machine has no interface with the address 127.0.0.1, by which processes share work; enable loopback"
        )
    os.environ["GLOO_SOCKET_IFNAME"] = names[0]
    os.environ["NCCL_SOCKET_IFNAME"] = f"={names[0]}"


def _number(variable: str, absent: int) -> int:
    """Return the variable that a launcher has set. Raises UserError if it is no whole number."""
    text = os.environ.get(variable, str(absent)) if is_worker() else str(absent)
    try:
        return int(text)
    except ValueError:
        raise UserError(
            f"the environment variable {variable} is {text!r}, expected a whole number; unset it, or start "
            "the stage by torchrun"
        ) from None
