"""Samplers with an exact denoiser reach its distribution."""

import math
from itertools import pairwise

import pytest
import torch
from exact import MEAN, STD, finite_set_denoiser, gaussian_denoiser, last, normal
from torch import Tensor

from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.schedules import make_schedule
from ddpm.sampling import grids, samplers


def test_the_grid_goes_from_T_to_0_in_even_steps() -> None:
    assert grids.uniform_grid(1000, 4) == [1000, 750, 500, 250, 0]
    assert grids.uniform_grid(10, 10) == list(range(10, -1, -1))
    for steps in range(1, 51):
        grid = grids.uniform_grid(50, steps)
        assert len(grid) == steps + 1
        assert all(t > s for t, s in pairwise(grid))


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "ddim half", "ddim one"])
def test_the_exact_gaussian_denoiser_gives_its_gaussian(name: str, sampler: str) -> None:
    schedule = make_schedule(name, 1000)
    n = 20_000
    noise = normal((n, 1, 1, 1))
    grid = grids.uniform_grid(1000, 500)
    denoise = gaussian_denoiser(schedule)
    if sampler == "ddpm":
        x = last(samplers.ddpm(denoise, schedule, noise(), grid, noise, variance="small"))
    else:
        eta = {"ddim": 0.0, "ddim half": 0.5, "ddim one": 1.0}[sampler]
        x = last(samplers.ddim(denoise, schedule, noise(), grid, noise, eta=eta))
    # Four standard errors, and 1.5 % for 500 instead of infinitely many steps.
    assert abs(x.mean() - MEAN) < 4 * STD / math.sqrt(n) + 0.015
    assert abs(x.std() - STD) < 4 * STD / math.sqrt(2 * n) + 0.015


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_exact_denoiser_of_a_finite_set_gives_its_members_equally_often(eta: float) -> None:
    schedule = make_schedule("cosine", 1000)
    data = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    n = 2000
    noise = normal((n, 1, 4, 4))
    grid = grids.uniform_grid(1000, 200)
    x = last(samplers.ddim(finite_set_denoiser(schedule, data), schedule, noise(), grid, noise, eta=eta))
    distances = (x[:, None] - data[None]).flatten(2).norm(dim=-1)
    nearest, which = distances.min(dim=1)
    assert nearest.max() < 0.05
    shares = torch.bincount(which, minlength=5) / n
    assert (shares - 0.2).abs().max() < 4 * math.sqrt(0.2 * 0.8 / n) + 0.01


@pytest.mark.parametrize("steps", [1000, 50])
def test_ddim_with_eta_one_equals_ddpm(steps: int) -> None:
    schedule = make_schedule("cosine", 1000)
    denoise = gaussian_denoiser(schedule)
    grid = grids.uniform_grid(1000, steps)
    a, b = normal((64, 1, 4, 4)), normal((64, 1, 4, 4))
    ddpm = last(samplers.ddpm(denoise, schedule, a(), grid, a, variance="small"))
    ddim = last(samplers.ddim(denoise, schedule, b(), grid, b, eta=1.0))
    assert (ddpm - ddim).abs().max() < 2e-3


def test_ddim_without_noise_never_draws_any() -> None:
    schedule = make_schedule("cosine", 100)

    def forbidden() -> Tensor:
        raise AssertionError("drew noise")

    x_T = torch.randn(2, 1, 2, 2)
    last(samplers.ddim(gaussian_denoiser(schedule), schedule, x_T, grids.uniform_grid(100, 10), forbidden, eta=0.0))


def test_ddpm_with_a_fixed_large_variance_reaches_the_gaussian_too_and_is_more_spread_on_the_way() -> None:
    """Ho et al. 2020, Sec. 3.2: beta is right for data of unit variance, beta-tilde for a point; STD lies between."""
    schedule = make_schedule("linear", 1000)
    grid = grids.uniform_grid(1000, 1000)
    spread, ends = [], []
    for variance in ("small", "large"):
        noise = normal((2000, 1, 1, 1))
        steps = list(samplers.ddpm(gaussian_denoiser(schedule), schedule, noise(), grid, noise, variance=variance))
        spread.append(steps[-200].x_t.std())
        ends.append(steps[-1].x_t)
    assert spread[1] > spread[0]
    for x in ends:
        assert abs(x.mean() - MEAN) < 4 * STD / math.sqrt(2000) + 0.015
        assert abs(x.std() - STD) < 4 * STD / math.sqrt(4000) + 0.02


def test_a_learned_variance_of_fraction_zero_is_small_and_of_one_is_large() -> None:
    schedule = make_schedule("cosine", 1000)
    exact = gaussian_denoiser(schedule)
    grid = grids.uniform_grid(1000, 20)
    for fraction, name in ((0.0, "small"), (1.0, "large")):

        def both(x_t: Tensor, t: Tensor, fraction: float = fraction) -> Estimate:
            return Estimate(exact(x_t, t).x_0, torch.full_like(x_t, fraction))

        a, b = normal((4, 1, 4, 4)), normal((4, 1, 4, 4))
        learned = last(samplers.ddpm(both, schedule, a(), grid, a, variance="learned"))
        fixed = last(samplers.ddpm(exact, schedule, b(), grid, b, variance=name))
        assert torch.allclose(learned, fixed, atol=1e-4)
