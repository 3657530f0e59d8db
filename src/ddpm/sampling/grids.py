"""Time grids: the times between noise and image at which a sampler evaluates the denoiser.

A grid is a list of falling times that ends in 0. It has one entry more than the sampler takes steps. Times are real if
the grid is defined by the noise level sigma-bar = sigma_t / alpha_t = exp(-lambda_t), the noise in x_t / alpha_t.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch

from ddpm.diffusion.processes import Process, VarianceExploding

MAX_NOISE = math.exp(5.1)
"""Largest noise level of `karras` and `log_snr`, for processes whose levels grow to infinity or beyond any visible
difference. Lu et al.'s published code starts there (lambda = -5.1) with the cosine schedule."""
SIGMA_DATA = 0.5
"""Standard deviation of images in [-1, 1].  Karras et al. 2022, Tab. 1."""


def uniform_grid(T: float, steps: int) -> list[float]:
    """Return times evenly spaced in t ("trailing", Lin et al. 2023, Tab. 2). int for int T; at most T steps."""
    if isinstance(T, int):
        return [round(T * (steps - i) / steps) for i in range(steps + 1)]
    return [T * (steps - i) / steps for i in range(steps + 1)]


def uniform(process: Process, steps: int) -> list[float]:
    """Return `uniform_grid` of the whole process."""
    return uniform_grid(process.T, steps)


def quadratic(process: Process, steps: int) -> list[float]:
    """Return times evenly spaced in sqrt(t), so denser towards the image.  Song, Meng and Ermon 2020, appendix D.2."""
    roots = _even(math.sqrt(process.T), math.sqrt(_earliest(process)), steps)
    return [process.T, *(root**2 for root in roots[1:]), 0]


def karras(process: Process, steps: int, *, rho: float) -> list[float]:
    """Return times evenly spaced in sigma-bar^(1/rho), over the process's range.  Karras et al. 2022, Eq. 5."""
    high, low = _noise_range(process)
    levels = [root**rho for root in _even(high ** (1 / rho), low ** (1 / rho), steps)]
    return [*_times(process, levels), 0]


def log_snr(process: Process, steps: int, *, least: float = 0.0) -> list[float]:
    """Return times evenly spaced in lambda = log(alpha / sigma), at noise levels of `least` and more.

    Lu et al. 2022 (DPM-Solver), Sec. 3.3.
    """
    high, low = _noise_range(process)
    return [*_times(process, [math.exp(x) for x in _even(math.log(high), math.log(max(low, least)), steps)]), 0]


def optimized(process: Process, steps: int) -> list[float]:
    """Return the times of least error for few Euler (DDIM) steps on Gaussian data: even in arctan(sigma-bar / c).

    For data N(0, c^2) the path is y(s) = y(0) sqrt(1 + s^2 / c^2) in s = sigma-bar. A step of length d has the error
    d^2 y'' / 2, and the rest of the path scales it by y(0) / y(s). The sum is least if every step adds the same:
    d ~ c^2 + s^2, so s = c tan(theta) with theta in even steps. It is also the schedule that Sabour et al. 2024
    (Align Your Steps, Sec. 3) find for Gaussian data from their bound on the KL divergence. c is SIGMA_DATA.
    """
    top = math.atan2(process.sigma(_tensor(process.T)).item(), SIGMA_DATA * process.alpha(_tensor(process.T)).item())
    levels = [SIGMA_DATA * math.tan(top * (steps - i) / steps) for i in range(1, steps)]
    return [process.T, *_times(process, levels), 0]


def time_of(process: Process, noise: float) -> float:
    """Return the time at which sigma_t / alpha_t is `noise`, by bisection; 0 or T if the process does not reach it."""
    return times_of(process, (noise,))[0]


def times_of(process: Process, noises: Sequence[float]) -> tuple[float, ...]:
    """Return `time_of` every noise level. The answer is kept, so that the next batch does not search again."""
    return _bisected(process, tuple(noises))  # type: ignore[arg-type]  # every process has a hash


@lru_cache(maxsize=256)
def _bisected(process: Process, noises: tuple[float, ...]) -> tuple[float, ...]:
    """Search all levels at once on the CPU, so that it takes 50 evaluations of the process for any number of them."""
    wanted = torch.tensor(noises, dtype=torch.float64)
    low, high = torch.zeros_like(wanted), torch.full_like(wanted, process.T)
    for _ in range(50):
        middle = (low + high) / 2
        below = process.sigma(middle).double() < wanted * process.alpha(middle).double()
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return tuple(low.tolist())


def _even(first: float, last: float, n: int) -> list[float]:
    return [first + (last - first) * i / max(n - 1, 1) for i in range(n)]


def _earliest(process: Process) -> float:
    """Return the smallest time at which a sampler evaluates the network: 1 on the discrete chain."""
    if isinstance(process, VarianceExploding):
        return process.sigma_min
    return 1 if isinstance(process.T, int) else process.T / 1000


def _noise_range(process: Process) -> tuple[float, float]:
    low, high = _tensor(_earliest(process)), _tensor(process.T)
    lowest = (process.sigma(low) / process.alpha(low)).item()
    return min((process.sigma(high) / process.alpha(high)).item(), MAX_NOISE), lowest


def _times(process: Process, levels: list[float]) -> list[float]:
    """Return the times of falling noise levels, each time once.

    With pure noise at T and few steps, a discrete process has no levels between its last finite one and infinity, so
    that several levels have the same time.
    """
    times = times_of(process, levels)
    return [t for k, t in enumerate(times) if k == 0 or t < times[k - 1]]


def _tensor(t: float) -> torch.Tensor:
    return torch.tensor([t], dtype=torch.float64)
