"""The processes that share one stage: who they are, how they meet, and who works on what.

A launcher (torchrun, or `ddpm.compute.launch`) sets RANK and WORLD_SIZE; without them there is one process.
torch is imported inside the functions: `workspace.run_stage` has settings to make before.
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
"""How long a process waits for the others before it takes them for dead; rank 0 alone logs and writes."""

LAUNCHER_VARIABLE = "DDPM_WORKERS_OF"
"""Environment variable by which a stage tells its workers who started them."""
STORE_VARIABLE = "DDPM_WORKERS_STORE"
"""Environment variable that names the file in which a stage's workers find each other; without it, rank 0 listens."""
_TOLD_BYTES = 256


def is_worker() -> bool:
    """Whether a launcher started this process as one of several (or as the only one)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """This process among those of the stage, from 0; rank 0 writes all files and speaks to MLflow."""
    return _number("RANK", 0)


def processes() -> int:
    """How many processes share this stage, on all machines."""
    return _number("WORLD_SIZE", 1)


def leads() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def restarted() -> bool:
    """Whether this worker stands for one that was lost: what it saved is this run's, whatever runtime.resume says."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def any_of(*flags: bool) -> list[bool]:
    """For each flag, whether it is set in any process: the same answer in all of them."""
    if processes() == 1:
        return list(flags)
    import torch
    import torch.distributed as dist

    votes = torch.tensor(flags, dtype=torch.uint8)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return [bool(vote) for vote in votes]


def together() -> None:
    """Waits until every process has come here."""
    any_of(False)


def dealt(n: int, batch: int) -> Iterator[tuple[int, slice]]:
    """Who works on which of n items: (rank, rows), `batch` rows at a time, in order, dealt in turn.

    A batch is what it would be in one process, so that it gives the same numbers.
    """
    for number, start in enumerate(range(0, n, batch)):
        yield number % processes(), slice(start, min(start + batch, n))


def assembled(own: "dict[int, Tensor]", *, n: int, batch: int, everywhere: bool) -> "Tensor | None":
    """All n rows in order, from what each process made of its batches (see `dealt`) by their first row; on the CPU.

    On rank 0, and on the others only if `everywhere`, else None there. Every process must call it.
    """
    import torch
    import torch.distributed as dist

    if processes() == 1:
        return torch.cat([own[start] for start in sorted(own)])
    row, dtype = _told_by_rank_0(own[0] if leads() else None)  # the first batch is always rank 0's
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


def _told_by_rank_0(rows: "Tensor | None") -> "tuple[list[int], torch.dtype]":
    """Shape of a row, and type, of rank 0's `rows`: the same answer in all processes.

    JSON in a tensor: torch would send a pickle, which runs whatever it holds, over a port that asks nobody for a name.
    """
    import torch
    import torch.distributed as dist

    text = torch.zeros(_TOLD_BYTES, dtype=torch.uint8)
    if rows is not None:
        told = json.dumps([list(rows.shape[1:]), str(rows.dtype).removeprefix("torch.")]).encode()
        text[: len(told)] = torch.tensor(list(told), dtype=torch.uint8)
    dist.broadcast(text, src=0)
    row, dtype = json.loads(bytes(text.tolist()).rstrip(b"\0"))
    return row, getattr(torch, dtype)


def share_of(n: int) -> slice:
    """This process's part of n things, equal to within one."""
    return slice(n * rank() // processes(), n * (rank() + 1) // processes())


@contextmanager
def joined(runtime: Runtime) -> Iterator[None]:
    """This worker is in the process group inside the block: gloo between CPUs, NCCL between GPUs.

    Tensors on the CPU may be exchanged in either.
    """
    import torch
    import torch.distributed as dist

    from ddpm.compute.hardware import choose_device

    device = choose_device(runtime.device)
    if device.type == "mps" and processes() > 1:
        raise UserError("several processes cannot share MPS; start one, or set runtime.device to cpu")
    if device.type == "cuda":
        local, gpus = _number("LOCAL_RANK", 0), torch.cuda.device_count()
        if local >= gpus:
            raise UserError(
                f"process {local + 1} of this machine has no GPU of its own: there are {gpus}; start at most as many "
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
    """Gloo and NCCL, which authenticate nobody, listen on the loopback interface alone."""
    import psutil

    names = [name for name, held in psutil.net_if_addrs().items() if any(each.address == "127.0.0.1" for each in held)]
    if not names:
        raise UserError(
            "this machine has no interface with the address 127.0.0.1, over which processes could share work"
        )
    os.environ["GLOO_SOCKET_IFNAME"] = names[0]
    os.environ["NCCL_SOCKET_IFNAME"] = f"={names[0]}"


def _number(variable: str, absent: int) -> int:
    return int(os.environ.get(variable, absent)) if is_worker() else absent
