"""What a device reaches in one large operation: the yardstick for everything smaller."""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

LEAST_SECONDS = 0.2
REPETITIONS = 5


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product, large for the device."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return _best(lambda: a @ b, 2 * n**3, device)


def conv_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the convolution that U-Nets consist of: 3x3, 128 to 128 channels at 32x32, channels_last, forward."""
    n, c, size = (512 if device.type == "cuda" else 32), 128, 32
    x = torch.randn(n, c, size, size, device=device).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(c, c, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)
    return _best(lambda: F.conv2d(x, weight, padding=1), 2 * n * size**2 * c * c * 9, device)


@torch.inference_mode()
def _best(operation: Callable[[], object], flops: int, device: torch.device) -> float:
    """FLOP/s of the fastest of a few stretches, each long enough to be measured."""

    def seconds(times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            operation()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    seconds(1)
    times = max(1, round(LEAST_SECONDS / REPETITIONS / seconds(1)))
    return max(flops * times / seconds(times) for _ in range(REPETITIONS))
