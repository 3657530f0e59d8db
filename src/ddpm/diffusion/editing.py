"""Editing: from a given image into the process and back out of it, by any sampler."""

from itertools import pairwise

import torch
from torch import Tensor

from ddpm.diffusion.gaussian import q_sample
from ddpm.diffusion.objectives import eps_from_x_0
from ddpm.diffusion.restoration import even_grid
from ddpm.diffusion.samplers import Denoise, Noise
from ddpm.diffusion.schedules import Schedule


def start_of_edit(
    process: Schedule, x_0: Tensor, *, strength: float, steps: int, noise: Noise
) -> tuple[Tensor, list[float]]:
    """Image to image: x_t ~ q(x_t | x_0) at t = strength * T, and a grid of `steps` steps from there to 0.

    Meng et al. 2022 (SDEdit), Algorithm 1. Whatever is finer than the noise at t is the sampler's; what is coarser
    stays. strength is in (0, 1]; at 1 nothing of the image is left but what the process leaves at T.
    """
    t = strength * process.T
    return q_sample(process, x_0, torch.full((len(x_0),), t, device=x_0.device), noise()), even_grid(t, steps)


def ddim_inversion(denoise: Denoise, process: Schedule, x_0: Tensor, grid: list[float], *, iterations: int) -> Tensor:
    """The x_T from which `samplers.ddim` with eta = 0 comes to x_0 along this grid (decreasing, ends in 0).

    A step of DDIM from t to s solved for x_t (Song, Meng and Ermon 2020, Eq. 13):
        x_t = alpha_t / alpha_s x_s + (sigma_t - alpha_t / alpha_s sigma_s) eps(x_t, t)
    by so many fixed-point iterations from x_t = alpha_t / alpha_s x_s. One is the usual inversion, which takes the
    eps of x_s for that of x_t; with more the round trip closes (Pan et al. 2023, Sec. 3.2). It costs `iterations`
    network evaluations a step.
    """
    x_s = x_0
    for s, t in pairwise(reversed(grid)):
        s_all, t_all = (torch.full((len(x_0),), time, device=x_0.device) for time in (s, t))
        alpha_t, sigma_t = process.alpha(t_all), process.sigma(t_all)
        factor = alpha_t / process.alpha(s_all)
        x_t = factor * x_s
        for _ in range(iterations):
            eps = eps_from_x_0(denoise(x_t, t_all), x_t, alpha_t, sigma_t)
            x_t = factor * x_s + (sigma_t - factor * process.sigma(s_all)) * eps
        x_s = x_t
    return x_s


def slerp(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Between noises a and b [N,C,H,W] along a great circle, weight [N] in [0, 1] of b.  Shoemake 1985, Sec. 3.3.

    A straight line would pass through noise that is too weak: the mean of two normal draws has half their variance.
    Song, Meng and Ermon 2020, Eq. 67 of the appendix.
    """
    w = weight.view(-1, 1, 1, 1)
    cosine = (_direction(a) * _direction(b)).sum(dim=(1, 2, 3), keepdim=True).clamp(-1, 1)
    angle = torch.arccos(cosine)
    curved = (torch.sin((1 - w) * angle) * a + torch.sin(w * angle) * b) / torch.sin(angle)
    return torch.where(torch.sin(angle).abs() < 1e-4, torch.lerp(a, b, w), curved)


def _direction(x: Tensor) -> Tensor:
    return x / torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
