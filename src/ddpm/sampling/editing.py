"""Editing: add noise to a given image by the forward process or by inversion, and sample from there."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ddpm.diffusion.gaussian import q_sample
from ddpm.diffusion.processes import Process
from ddpm.diffusion.sample_shape import per_sample, within_sample
from ddpm.sampling.samplers import Denoise, Noise, at, instant


def start_of_edit(
    process: Process, x_0: Tensor, grid: Sequence[float], *, strength: float, noise: Noise
) -> tuple[Tensor, list[float]]:
    """Return x_t ~ q(x_t | x_0) at the t that leaves `strength` of the grid's steps, and the grid from there.

    Meng et al. 2022 (SDEdit), Algorithm 1. The sampler replaces details finer than the noise at t; coarser structure
    stays. strength is in (0, 1]; at 1 only what the process leaves of the image at T remains.
    """
    left = max(1, round(strength * (len(grid) - 1)))
    rest = list(grid[-left - 1 :])
    return q_sample(process, x_0, instant(rest[0]), noise()), rest


SPREAD = 1.0
"""Standard deviation of Gaussian images for which the inversion's first guess and slope are exact."""


def ddim_inversion(
    denoise: Denoise, process: Process, x_0: Tensor, grid: Sequence[float], *, iterations: int
) -> Tensor:
    """Return the x_T from which `samplers.ddim` with eta = 0 reaches x_0 along this grid (falling, ends in 0).

    A step of DDIM from t to s is, with n = sigma_s / (alpha_s sigma_t) (Song, Meng and Ermon 2020, Eq. 13),
        x_s / alpha_s = n x_t + (1 - n alpha_t) x_0(x_t, t).
    It is solved for x_t by `iterations` steps of Newton's method, with the slope for Gaussian data in place of the
    network's. The usual inversion (Sec. 5.4) replaces x_0(x_t, t) by x_0(x_s, s), so sampling from it does not return
    to x_0. Solving the step itself does, as in Pan et al. 2023, Sec. 3.2. It costs `iterations` evaluations per step.
    """
    x_s = x_0
    for s, t in pairwise(grid[::-1]):
        t_all = at(t, x_0)
        alpha_t, sigma_t, alpha_s, sigma_s = (f(instant(u)) for u in (t, s) for f in (process.alpha, process.sigma))
        n = sigma_s / (alpha_s * sigma_t)
        variance_t, variance_s = (a**2 * SPREAD**2 + b**2 for a, b in ((alpha_t, sigma_t), (alpha_s, sigma_s)))
        slope = n + (1 - n * alpha_t) * alpha_t * SPREAD**2 / variance_t
        x_t = (variance_t / variance_s).sqrt() * x_s
        for _ in range(iterations):
            x_t = x_t - (n * x_t + (1 - n * alpha_t) * denoise(x_t, t_all).x_0 - x_s / alpha_s) / slope
        x_s = x_t
    return x_s


def slerp(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Interpolate noises a, b [N, C, *shape] on a great circle, weight [N] in [0, 1] of b.  Shoemake 1985, Sec. 3.3.

    Linear interpolation would give too weak noise: the mean of two normal draws has half their variance.
    Song, Meng and Ermon 2020, Eq. 67 of the appendix.
    """
    w = per_sample(weight, a)
    cosine = (_direction(a) * _direction(b)).sum(dim=within_sample(a), keepdim=True).clamp(-1, 1)
    angle = torch.arccos(cosine)
    curved = (torch.sin((1 - w) * angle) * a + torch.sin(w * angle) * b) / torch.sin(angle)
    return torch.where(torch.sin(angle).abs() < 1e-4, torch.lerp(a, b, w), curved)


def _direction(x: Tensor) -> Tensor:
    return x / torch.linalg.vector_norm(x, dim=within_sample(x), keepdim=True)
