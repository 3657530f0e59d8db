"""Editing: from a given image into the process and back out of it, by any sampler."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ddpm.diffusion.gaussian import q_sample
from ddpm.diffusion.processes import Process
from ddpm.diffusion.sample_shape import per_sample, within_sample
from ddpm.sampling.samplers import Denoise, Noise, at


def start_of_edit(
    process: Process, x_0: Tensor, grid: Sequence[float], *, strength: float, noise: Noise
) -> tuple[Tensor, list[float]]:
    """Image to image: x_t ~ q(x_t | x_0) at the t that leaves `strength` of the grid's steps, and the grid from there.

    Meng et al. 2022 (SDEdit), Algorithm 1. What is finer than the noise at t becomes the sampler's; what is coarser
    stays. strength is in (0, 1]; at 1 nothing of the image is left but what the process leaves of it at T.
    """
    left = max(1, round(strength * (len(grid) - 1)))
    rest = list(grid[-left - 1 :])
    return q_sample(process, x_0, at(rest[0], x_0), noise()), rest


SPREAD = 1.0
"""Standard deviation of the Gaussian images that the inversion's first guess and slope are exact for."""


def ddim_inversion(
    denoise: Denoise, process: Process, x_0: Tensor, grid: Sequence[float], *, iterations: int
) -> Tensor:
    """The x_T from which `samplers.ddim` with eta = 0 comes to x_0 along this grid (falling, ends in 0).

    A step of DDIM from t to s is, with n = sigma_s / (alpha_s sigma_t) (Song, Meng and Ermon 2020, Eq. 13),
        x_s / alpha_s = n x_t + (1 - n alpha_t) x_0(x_t, t),
    and is solved for x_t by so many steps of Newton's method, in which a Gaussian's slope stands for the network's.
    The usual inversion (Sec. 5.4) takes x_0(x_s, s) for x_0(x_t, t) and comes back elsewhere; solving the step
    itself closes the round trip, as in Pan et al. 2023, Sec. 3.2. It costs `iterations` evaluations a step.
    """
    x_s = x_0
    for s, t in pairwise(grid[::-1]):
        t_all, s_all = at(t, x_0), at(s, x_0)
        shaped = (per_sample(t_all, x_0), per_sample(s_all, x_0))
        alpha_t, sigma_t, alpha_s, sigma_s = (f(u) for u in shaped for f in (process.alpha, process.sigma))
        n = sigma_s / (alpha_s * sigma_t)
        variance_t, variance_s = (a**2 * SPREAD**2 + b**2 for a, b in ((alpha_t, sigma_t), (alpha_s, sigma_s)))
        slope = n + (1 - n * alpha_t) * alpha_t * SPREAD**2 / variance_t
        x_t = (variance_t / variance_s).sqrt() * x_s
        for _ in range(iterations):
            x_t = x_t - (n * x_t + (1 - n * alpha_t) * denoise(x_t, t_all).x_0 - x_s / alpha_s) / slope
        x_s = x_t
    return x_s


def slerp(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Between noises a and b [N, C, *shape] along a great circle, weight [N] in [0, 1] of b.  Shoemake 1985, Sec. 3.3.

    A straight line would pass through noise that is too weak: the mean of two normal draws has half their variance.
    Song, Meng and Ermon 2020, Eq. 67 of the appendix.
    """
    w = per_sample(weight, a)
    cosine = (_direction(a) * _direction(b)).sum(dim=within_sample(a), keepdim=True).clamp(-1, 1)
    angle = torch.arccos(cosine)
    curved = (torch.sin((1 - w) * angle) * a + torch.sin(w * angle) * b) / torch.sin(angle)
    return torch.where(torch.sin(angle).abs() < 1e-4, torch.lerp(a, b, w), curved)


def _direction(x: Tensor) -> Tensor:
    return x / torch.linalg.vector_norm(x, dim=within_sample(x), keepdim=True)
