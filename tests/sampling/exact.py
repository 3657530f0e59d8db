"""Exact denoisers, of a Gaussian and of a finite set, for tests of everything that takes a denoiser."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.sample_shape import per_sample
from ddpm.sampling import samplers

MEAN, STD = 0.3, 0.5


def gaussian_denoiser(process: Any, mean: float = MEAN, std: float = STD) -> samplers.Denoise:
    """E[x_0 | x_t] for x_0 ~ N(mean, std^2): linear regression of x_0 on x_t."""

    def denoise(x_t: Tensor, t: Tensor) -> Estimate:
        t = per_sample(t, x_t)
        alpha, sigma = process.alpha(t), process.sigma(t)
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return Estimate(mean + gain * (x_t - alpha * mean))

    return denoise


def finite_set_denoiser(process: Any, data: Tensor) -> samplers.Denoise:
    """E[x_0 | x_t] for x_0 uniform on a finite set [M, C, *shape]: a softmax over its members."""

    def denoise(x_t: Tensor, t: Tensor) -> Estimate:
        alpha, sigma = process.alpha(t), process.sigma(t)
        squared = ((x_t[:, None] - per_sample(alpha, data[None]) * data[None]) ** 2).flatten(2).sum(-1)
        weights = torch.softmax(-squared / (2 * sigma[:, None] ** 2), dim=1)
        return Estimate(torch.tensordot(weights, data, dims=1))

    return denoise


def normal(shape: tuple[int, ...], seed: int = 0) -> Callable[[], Tensor]:
    """Return a source of seeded standard normal noise."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator)


def last(steps: Iterable[samplers.Step]) -> Tensor:
    """Return the sample at the end of a sampler."""
    *_, step = steps
    assert step.t == 0
    return step.x_t
