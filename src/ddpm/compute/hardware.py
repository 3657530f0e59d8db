"""What the machine offers: device, precision, memory layout, and how exactly it repeats itself."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from ddpm.errors import UserError

Precision = Literal["float32", "bf16"]


def choose_device(name: Literal["auto", "cuda", "mps", "cpu"]) -> torch.device:
    """CUDA where there is one, then MPS, then the CPU; a named device must be there.

    Raises UserError for a named device that this machine or this build of torch lacks.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if not available[name]:
        raise UserError(f"runtime.device is {name}, which torch does not find on this machine; set it to auto")
    return torch.device(name)


def choose_precision(name: Literal["auto", "float32", "bf16"], device: torch.device, size: int) -> Precision:
    """bf16 where the device computes in it faster than in float32, for images of `size` pixels.

    On a CPU that needs AVX512-BF16 or AMX and images large enough that convolutions dominate
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
    """The context around the network call, and nothing else: process mathematics stays float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def memory_format(device: torch.device, precision: Precision) -> torch.memory_format:
    """channels_last where convolutions gain from it: on CUDA, and on a CPU in bf16."""
    if device.type == "cuda" or precision == "bf16":
        return torch.channels_last
    return torch.contiguous_format


def set_determinism(wanted: bool) -> None:
    """Makes a GPU repeat its results bit by bit, at the cost of speed; a CPU does so anyway.

    To be called before CUDA is used: cuBLAS reads its setting when it starts. An operation that has no deterministic
    form on the device then raises RuntimeError instead of being a little different each time
    (torch.use_deterministic_algorithms; PyTorch's notes on reproducibility). TF32 is switched off as well, since which
    kernels use it depends on the GPU.
    """
    if not wanted:
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False  # would choose kernels by their speed today
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def kind_of_machine(device: torch.device) -> dict[str, str | int]:
    """What the last bits of a result depend on beside parameters, data and code (docs/exactness.md)."""
    kind: dict[str, str | int] = {"device": str(device), "torch": torch.__version__}
    if device.type == "cuda":
        return kind | {"name": torch.cuda.get_device_name(device)}
    return kind | {"instructions": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, the device's, or that of torch's CPU allocator, whose error has no own type."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        said in str(error) for said in ("can't allocate memory", "std::bad_alloc")
    )
