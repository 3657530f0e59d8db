"""What the machine offers: device, precision, memory layout."""

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
