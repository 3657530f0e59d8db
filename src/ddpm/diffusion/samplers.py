"""Samplers: from noise to image along a grid of times.

A sampler is a generator over (denoise, schedule, x_T, grid, noise). It knows nothing of networks, labels,
guidance or files: those live in `denoise(x_t, t) -> x_0`, the estimate of the image in x_t for t [N].
`noise()` returns standard normal [N,C,H,W], fresh at every call, so the caller owns the randomness.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.diffusion.gaussian import q_posterior
from ddpm.diffusion.objectives import eps_from_x_0
from ddpm.diffusion.schedules import Schedule

Denoise = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[], Tensor]


class Step(NamedTuple):
    """Where the sampler stands after one network evaluation."""

    t: int
    """Time reached: the next smaller value of the grid."""
    x_t: Tensor
    """[N,C,H,W]; the sample itself when t is 0."""
    x_0: Tensor
    """The denoiser's estimate that led here."""


def uniform_grid(T: int, steps: int) -> list[int]:
    """T = t_0 > t_1 > ... > t_steps = 0, evenly spaced ("trailing", Lin et al. 2023, Tab. 2); steps is at most T."""
    return [round(T * (steps - i) / steps) for i in range(steps + 1)]


def ddpm(denoise: Denoise, schedule: Schedule, x_T: Tensor, grid: list[int], noise: Noise) -> Iterator[Step]:
    """Ancestral sampling, variance beta-tilde ("fixed small").  Ho et al. 2020, Algorithm 2 and Sec. 3.2.

    On a sparse grid it is the chain that visits only those times (Nichol and Dhariwal 2021, Sec. 4).
    """
    x_t = x_T
    for t, s, t_int in _steps(grid, x_T):
        x_0 = denoise(x_t, t)
        mean, variance = q_posterior(schedule, x_0, x_t, t, s)
        x_t = mean + variance.sqrt() * noise() if t_int > 0 else mean
        yield Step(t_int, x_t, x_0)


def ddim(
    denoise: Denoise, schedule: Schedule, x_T: Tensor, grid: list[int], noise: Noise, *, eta: float
) -> Iterator[Step]:
    """Song, Meng and Ermon 2020, Eq. 12, with sigma of Eq. 16: eta = 0 is deterministic, eta = 1 is `ddpm`."""
    x_t = x_T
    for t, s, t_int in _steps(grid, x_T):
        x_0 = denoise(x_t, t)
        eps = eps_from_x_0(x_0, x_t, schedule.alpha(t), schedule.sigma(t))
        _, variance = q_posterior(schedule, x_0, x_t, t, s)
        direction = (schedule.sigma(s) ** 2 - eta**2 * variance).clamp(min=0).sqrt()
        x_t = schedule.alpha(s) * x_0 + direction * eps
        if eta > 0 and t_int > 0:
            x_t = x_t + eta * variance.sqrt() * noise()
        yield Step(t_int, x_t, x_0)


def _steps(grid: list[int], x: Tensor) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Pairs (t, s) of the grid as integer [N] on x's device, with s also as a plain number."""
    for t, s in pairwise(grid):
        yield (
            torch.full((len(x),), t, device=x.device, dtype=torch.long),
            torch.full((len(x),), s, device=x.device, dtype=torch.long),
            s,
        )
