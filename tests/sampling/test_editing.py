"""Editing: the part of an image that stays, and the inversion to noise and back."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.sample_shape import per_sample
from ddpm.diffusion.schedules import Schedule, make_schedule
from ddpm.sampling import editing, samplers
from ddpm.sampling.grids import uniform_grid
from ddpm.sampling.samplers import Denoise

PROCESS = make_schedule("cosine", 1000)
MEAN, STD = 0.3, 0.5


def normal(shape: tuple[int, ...], seed: int = 0) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator)


def gaussian(process: Schedule = PROCESS) -> Denoise:
    """E[x_0 | x_t] for x_0 ~ N(MEAN, STD^2)."""

    def denoise(x_t: Tensor, t: Tensor) -> Estimate:
        t = per_sample(t, x_t)
        alpha, sigma = process.alpha(t), process.sigma(t)
        return Estimate(MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x_t - alpha * MEAN))

    return denoise


def last(steps: object) -> Tensor:
    *_, step = steps  # type: ignore[misc]
    assert step.t == 0
    return step.x_t


@pytest.mark.parametrize("strength", [0.2, 0.6, 0.9])
def test_an_edited_gaussian_keeps_of_the_image_what_the_noise_leaves(strength: float) -> None:
    """x_0 -> x_t -> x_0': the regression of x_0' on x_0 has slope g alpha, variance as the posterior's and q's."""
    n, given = 20_000, 0.9
    noise = normal((n, 1, 1, 1))
    start = torch.full((n, 1, 1, 1), given)
    x_t, grid = editing.start_of_edit(PROCESS, start, uniform_grid(1000, 250), strength=strength, noise=noise)
    assert len(grid) == 250 * strength + 1
    x = last(samplers.ddpm(gaussian(), PROCESS, x_t, grid, noise, variance="small"))
    t = torch.tensor([strength * 1000])
    alpha, sigma = PROCESS.alpha(t).item(), PROCESS.sigma(t).item()
    total = alpha**2 * STD**2 + sigma**2
    gain = alpha * STD**2 / total
    mean = MEAN + gain * alpha * (given - MEAN)
    std = math.sqrt(gain**2 * sigma**2 + STD**2 * sigma**2 / total)
    assert abs(x.mean() - mean) < 4 * std / math.sqrt(n) + 0.005
    assert abs(x.std() - std) < 4 * std / math.sqrt(2 * n) + 0.005


def test_inversion_of_a_gaussian_meets_the_closed_form_of_the_probability_flow() -> None:
    """The flow keeps the standardised value: (x_t - alpha_t m) / std_t is the same at every t."""
    x_0 = torch.linspace(-1, 1, 9).view(-1, 1, 1, 1)
    t = 700.0
    x_t = editing.ddim_inversion(gaussian(), PROCESS, x_0, uniform_grid(t, 400), iterations=4)
    alpha, sigma = (f(torch.tensor([t])).item() for f in (PROCESS.alpha, PROCESS.sigma))
    expected = alpha * MEAN + math.sqrt(alpha**2 * STD**2 + sigma**2) / STD * (x_0 - MEAN)
    assert (x_t - expected).abs().max() < 0.01


@pytest.mark.parametrize("steps", [10, 50])
def test_the_round_trip_through_noise_closes_and_more_iterations_close_it_better(steps: int) -> None:
    x_0 = torch.linspace(-1, 1, 9).view(-1, 1, 1, 1)
    grid = uniform_grid(950.0, steps)

    def off_by(iterations: int) -> float:
        x_T = editing.ddim_inversion(gaussian(), PROCESS, x_0, grid, iterations=iterations)
        back = last(samplers.ddim(gaussian(), PROCESS, x_T, grid, normal(x_0.shape), eta=0.0))
        return (back - x_0).abs().max().item()

    assert off_by(6) < 1e-4
    assert off_by(6) < off_by(1)


def test_the_great_circle_ends_at_its_ends_and_keeps_the_norm_and_the_variance() -> None:
    a, b = normal((1, 1, 64, 64), 1)(), normal((1, 1, 64, 64), 2)()
    b = b * a.norm() / b.norm()
    weights = torch.linspace(0, 1, 5)
    path = editing.slerp(a.expand(5, -1, -1, -1), b.expand(5, -1, -1, -1), weights)
    assert torch.allclose(path[0], a[0], atol=1e-5)
    assert torch.allclose(path[4], b[0], atol=1e-5)
    assert (path.std(dim=(1, 2, 3)) - 1).abs().max() < 0.05  # a straight line would have 0.71 in the middle
    directions = path.flatten(1) / path.flatten(1).norm(dim=1, keepdim=True)
    steps = torch.arccos((directions[1:] * directions[:-1]).sum(dim=1))
    assert (steps - steps.mean()).abs().max() < 1e-3  # even in angle


def test_between_an_image_s_noise_and_itself_there_is_nothing_else() -> None:
    a = normal((3, 1, 4, 4))()
    assert torch.allclose(editing.slerp(a, a, torch.tensor([0.0, 0.5, 1.0])), a, atol=1e-5)
