"""Group normalisation and SiLU in bf16 on a CPU by native_norm.cpp, compiled for this processor when turned on."""

import ctypes
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_SOURCE = Path(__file__).with_suffix(".cpp")
# OpenMP is the library that torch has loaded, so that both use the same threads.
_OPTIONS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-shared",
    "-fPIC",
)
_SECONDS = 120
_FUNCTIONS = ("forward", "backward")

_library: ctypes.CDLL | None = None


def turn_on() -> str | None:
    """Compile and load the operations, which takes about a second; return why that failed, None if it did not.

    The compiler is that of the environment variable CXX, else c++. After a failure `kernels.group_norm` composes the
    same values up to rounding of torch's operations.
    """
    global _library
    if _library is not None:
        return None
    compiler = os.environ.get("CXX", "c++")
    try:
        with tempfile.TemporaryDirectory(prefix="ddpm-native-") as folder:  # private, so that nobody exchanges the file
            made = Path(folder) / "native_norm.so"
            command = [compiler, *_OPTIONS, str(_SOURCE), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=_SECONDS)
            library = ctypes.CDLL(str(made))
            for name in _FUNCTIONS:
                getattr(library, name)  # raises AttributeError for a library of another program
    except subprocess.CalledProcessError as error:
        return f"{compiler} could not compile it: {(error.stderr.strip().splitlines() or ['no message'])[0]}"
    except subprocess.TimeoutExpired:
        return f"{compiler} had not compiled it after {_SECONDS} s"
    except (OSError, AttributeError) as error:
        return f"what {compiler} compiled cannot be used: {error}"
    _library = library
    return None


def turn_on_where_it_serves(wanted: bool, device: torch.device, precision: str) -> str | None:
    """Turn the compiled operations on if they are `wanted` and usable; return one sentence if they are not used."""
    if not wanted:
        return None
    fits = device.type == "cpu" and precision == "bf16"
    obstacle = turn_on() if fits else f"it is for bf16 on a CPU, and this training computes in {precision} on {device}"
    return obstacle and f"runtime.native_norm is true, but torch's operations are used: {obstacle}"


def turn_off() -> None:
    """Let `kernels.group_norm` compose the values of torch's operations again."""
    global _library
    _library = None


def is_on() -> bool:
    """Return whether this process uses the compiled operations."""
    return _library is not None


class NativeGroupNorm(Function):
    """As `kernels.group_norm` for bf16 x [N,C,H,W]; scale and shift are float32 [N,C]. It must be turned on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        n, c, height, width = x.shape
        flat = x.permute(0, 2, 3, 1).contiguous()  # a view where x is channels_last
        scale, shift = scale.contiguous(), shift.contiguous()
        y, a, b = torch.empty_like(flat), torch.empty_like(scale), torch.empty_like(scale)
        mean, rstd = scale.new_empty(n, groups), scale.new_empty(n, groups)
        sizes = (n, height * width, c, groups)
        _call("forward", (flat, scale, shift, y, a, b, mean, rstd), sizes, ctypes.c_float(eps), ctypes.c_int(silu))
        ctx.save_for_backward(flat, scale, a, b, mean, rstd)
        ctx.sizes, ctx.silu = sizes, silu
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat, scale, a, b, mean, rstd = ctx.saved_tensors
        gradient = gradient.permute(0, 2, 3, 1).contiguous()
        dx, d_scale, d_shift = torch.empty_like(flat), torch.empty_like(scale), torch.empty_like(scale)
        tensors = (gradient, flat, scale, a, b, mean, rstd, dx, d_scale, d_shift)
        _call("backward", tensors, ctx.sizes, ctypes.c_int(ctx.silu))
        return dx.permute(0, 3, 1, 2), d_scale, d_shift, None, None, None


def _call(name: str, tensors: tuple[Tensor, ...], sizes: tuple[int, ...], *values: Any) -> None:
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    getattr(_library, name)(*pointers, *map(ctypes.c_int64, sizes), *values)
