"""The device, the precision, the memory layout, and deterministic computation."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ddpm.compute.cores import cores
from ddpm.errors import UserError

Precision = Literal["float32", "bf16"]
_BUSY = 1.5
"""Load per core above which other programs compute; the stages before leave a load of about one."""


def choose_device(name: Literal["auto", "cuda", "mps", "cpu"]) -> torch.device:
    """Return the named device; auto is CUDA if available, then MPS, then the CPU.

    After `processes.joined` CUDA has the number of this process's GPU. Before, it has none, because asking for it would
    start CUDA. Raises UserError if this machine or this build of torch does not have the named device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name != "auto" and not available[name]:
        raise UserError(f"runtime.device is {name}, which torch does not find on this machine; set it to auto")
    device = torch.device(next(kind for kind, there in available.items() if there) if name == "auto" else name)
    return numbered(device) if torch.cuda.is_initialized() else device


def numbered(device: torch.device) -> torch.device:
    """Return the device; "cuda" without a number becomes the GPU of this process, any other device is unchanged."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device())


def choose_precision(name: Literal["auto", "float32", "bf16"], device: torch.device, size: int) -> Precision:
    """Return the named precision; auto is bf16 if it is faster than float32 for images of `size` pixels.

    On a CPU, bf16 is faster with AVX512-BF16 or AMX, and for images large enough that convolutions dominate
    (docs/performance.md has the measurement).
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu" and size >= 16 and torch.cpu._is_avx512_bf16_supported():
        return "bf16"
    return "float32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context for calls of the network; everything else computes in float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def compiles(compile: bool | Literal["auto"], device: torch.device) -> bool:
    """Return whether a training compiles its network; auto is on CUDA.

    There normalisation, its scale and shift, SiLU and casts are kernels of their own, which compilation joins; they
    would cost more than the convolutions. On a CPU compiling takes longer than most trainings gain.
    """
    return device.type == "cuda" if compile == "auto" else compile


def memory_format(device: torch.device, precision: Precision) -> torch.memory_format:
    """Return channels_last where it makes convolutions faster (on CUDA, and on a CPU in bf16), else contiguous."""
    if device.type == "cuda" or precision == "bf16":
        return torch.channels_last
    return torch.contiguous_format


def sent(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Return values of the host on the device, without waiting for a GPU: through pinned memory, in stream order."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def set_determinism(deterministic: bool) -> None:
    """If `deterministic`, make a GPU repeat its results bit by bit, at the cost of speed; a CPU always does.

    Call this before CUDA is used, because cuBLAS reads its setting when it starts. An operation without a deterministic
    kernel on the device then raises RuntimeError (torch.use_deterministic_algorithms; PyTorch's notes on
    reproducibility). TF32 is turned off as well, because the GPU decides which kernels use it.
    """
    if not deterministic:
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False  # otherwise kernels are chosen by their measured speed
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside the block, compute products and convolutions of float32 in float32, not in TF32 or bf16.

    The program's own settings are restored at the end. Metrics are measured so, because they are compared between
    machines. It also works as a decorator.
    """
    backends: Any = torch.backends
    cuda, cudnn, cpu = backends.cuda, backends.cudnn, backends.mkldnn
    kinds = (cuda.matmul, cudnn.conv, cudnn.rnn, cpu.matmul, cpu.conv)
    # torch has these flags besides, and an operation may refuse to run where they disagree with those of `kinds`.
    older = ((cudnn, "allow_tf32"), (cuda.matmul, "allow_tf32"))
    before, older_before = [kind.fp32_precision for kind in kinds], dict[int, Any]()
    products = None
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    for k, (owner, flag) in enumerate(older):
        with suppress(RuntimeError):  # torch refuses to read an older flag where only the newer ones were set
            older_before[k] = getattr(owner, flag)
    try:
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = False
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for k, value in older_before.items():
            setattr(*older[k], value)
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


@contextmanager
def repeatable_float32() -> Iterator[None]:
    """Do as `full_float32`, and sum convolutions on a GPU in a fixed order. It also works as a decorator."""
    with (
        full_float32(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        yield


def kind_of_machine(device: torch.device) -> dict[str, str | int]:
    """Return what the last bits of a result depend on besides parameters, data and code (docs/exactness.md)."""
    kind: dict[str, str | int] = {"device": device.type, "torch": torch.__version__}
    if device.type == "cuda":
        return kind | {"name": torch.cuda.get_device_name(device)}
    return kind | {"instructions": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: of Python, of the device, or of torch's CPU allocator (a plain RuntimeError)."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        message in str(error) for message in ("can't allocate memory", "std::bad_alloc")
    )


def busy_sentence() -> str | None:
    """Return one sentence if other programs keep this machine's cores busy, so that measured times are too long.

    Call it before this process computes. The load average is that of the last minute; None where the system has none.
    """
    if not hasattr(os, "getloadavg"):
        return None
    load, available = os.getloadavg()[0], cores()
    if load < _BUSY * available:
        return None
    return (
        f"other programs keep this machine busy (load {load:.1f} on {available} cores), so these times may be "
        f"up to {load / available + 1:.0f} times too long; measure again when it is idle"
    )
