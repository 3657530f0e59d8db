"""Solvers against closed forms: their order on a Gaussian, and the sets and distributions that they must reach."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from exact import MEAN, STD, finite_set_denoiser, gaussian_denoiser, last, normal
from small_recipe import recipe
from torch import Tensor

from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.processes import LinearPath, Process, VarianceExploding
from ddpm.diffusion.schedules import make_schedule
from ddpm.sampling import grids, langevin, samplers, solvers
from ddpm.sampling.catalogue import SAMPLERS
from ddpm.sampling.drawing import drawn

LOWEST, HIGHEST = -8.0, 3.0


class Toy:
    """A process in float64 whose time runs with lambda from HIGHEST (t = 0) to LOWEST (t = T).

    It starts where x_0 hardly changes any more, so that the first steps of a multistep method, which are of lower
    order, do not hide the order of the others; and it ends before lambda is infinite.
    """

    T = HIGHEST - LOWEST
    prior_std = 1.0

    def __init__(self, *, preserving: bool) -> None:
        self.preserving = preserving

    def alpha(self, t: Tensor) -> Tensor:
        lam = HIGHEST - t.double()
        return torch.sigmoid(2 * lam).sqrt() if self.preserving else torch.ones_like(lam)

    def sigma(self, t: Tensor) -> Tensor:
        lam = HIGHEST - t.double()
        return torch.sigmoid(-2 * lam).sqrt() if self.preserving else torch.exp(-lam)


HEUN = partial(solvers.heun, churn=0.0, churn_range=(0.0, None), churn_noise=1.0)
ODE_SOLVERS: dict[str, tuple[Callable[..., Any], float]] = {
    # With the order that the paper claims.
    "ddim": (partial(samplers.ddim, eta=0.0), 1),  # Lu et al. 2022: DDIM is DPM-Solver-1
    "heun": (HEUN, 2),  # Karras et al. 2022
    "dpmpp_2m": (partial(solvers.dpm_solver_pp, order=2), 2),  # Lu et al. 2022b
    "dpmpp_3m": (partial(solvers.dpm_solver_pp, order=3), 3),
    "unipc of 1": (partial(solvers.unipc, order=1), 2),  # Zhao et al. 2023: UniPC-p is of order p + 1
    "unipc of 2": (partial(solvers.unipc, order=2), 3),
    "unipc of 3": (partial(solvers.unipc, order=3), 4),
}


@pytest.mark.parametrize("preserving", [True, False])
@pytest.mark.parametrize("name", ODE_SOLVERS)
def test_the_error_falls_with_the_order_that_the_paper_claims(name: str, preserving: bool) -> None:
    """Along the probability-flow ODE of Gaussian data, (x_t - alpha_t MEAN) / std(x_t) does not change."""
    solver, order = ODE_SOLVERS[name]
    process = Toy(preserving=preserving)
    start, end = (torch.full((3, 1, 1, 1), t, dtype=torch.float64) for t in (process.T, 0.0))
    std = [(process.alpha(t) ** 2 * STD**2 + process.sigma(t) ** 2).sqrt() for t in (start, end)]
    x_T = torch.tensor([0.7, -1.2, 2.0], dtype=torch.float64).view(3, 1, 1, 1) * process.sigma(start)
    exact = process.alpha(end) * MEAN + (x_T - process.alpha(start) * MEAN) * std[1] / std[0]
    errors = []
    for steps in (160, 640):
        grid = grids.uniform_grid(process.T, steps)
        errors.append((last(solver(gaussian_denoiser(process), process, x_T, grid, None)) - exact).abs().max().item())
    measured = math.log(errors[0] / errors[1], 4)
    assert order - 0.12 < measured < order + 0.4


EVERY: dict[str, Callable[..., Any]] = {name: solver for name, (solver, _) in ODE_SOLVERS.items()} | {
    "ddpm": partial(samplers.ddpm, variance="small"),
    "heun with churn": partial(solvers.heun, churn=20.0, churn_range=(0.05, 50.0), churn_noise=1.003),
    "dpmpp_2m_sde": partial(solvers.dpm_solver_pp, order=2, stochastic=True),
    "langevin": partial(langevin.annealed_langevin, steps=10, snr=0.35),
    "predictor_corrector": partial(langevin.predictor_corrector, steps=1, snr=0.1),
}
PROCESSES: dict[str, Process] = {
    "cosine": make_schedule("cosine", 1000),
    "exploding": VarianceExploding(0.01, 30.0),
    "path": LinearPath(1.0),
}


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
@pytest.mark.parametrize("name", EVERY)
def test_the_exact_denoiser_of_a_finite_set_leads_to_its_members_equally_often(name: str, process: Process) -> None:
    data = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    n = 400
    noise = normal((n, 1, 4, 4))
    grid = grids.log_snr(process, 60)
    x = last(EVERY[name](finite_set_denoiser(process, data), process, process.prior_std * noise(), grid, noise))
    nearest, which = (x[:, None] - data[None]).flatten(2).norm(dim=-1).min(dim=1)
    assert nearest.max() < 0.05
    shares = torch.bincount(which, minlength=5) / n
    assert (shares - 0.2).abs().max() < 4 * math.sqrt(0.2 * 0.8 / n) + 0.02


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
@pytest.mark.parametrize("name", EVERY)
def test_the_exact_denoiser_of_a_gaussian_leads_to_its_mean_and_variance(name: str, process: Process) -> None:
    n = 500
    noise = normal((n, 1, 6, 6))
    grid = grids.log_snr(process, 100)
    # Langevin steps of this size widen the distribution by 1 / sqrt(1 - snr^2) and forget slowly: allowed for below.
    x = last(EVERY[name](gaussian_denoiser(process), process, process.prior_std * noise(), grid, noise))
    slack = {"ddim": 0.02, "langevin": 0.03, "ddpm": 0.03, "predictor_corrector": 0.03}.get(name, 0.01)
    assert abs(x.mean() - MEAN) < 4 * STD / math.sqrt(36 * n) + slack
    assert abs(x.std() - STD) < 4 * STD / math.sqrt(2 * 36 * n) + slack


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
@pytest.mark.parametrize("steps", [1, 4])
def test_the_corrector_keeps_to_a_mixture_of_gaussians_in_two_dimensions(steps: int, process: Process) -> None:
    """The score of an image may be close to zero there, so its norm cannot set the length of a step."""
    means, spread, n = torch.tensor([[-0.8, -0.8], [0.8, -0.2], [-0.1, 0.9]]), 0.1, 3000

    def denoise(x_t: Tensor, t: Tensor) -> Estimate:
        alpha, sigma = process.alpha(t).view(-1, 1, 1), process.sigma(t).view(-1, 1, 1)
        variance = alpha**2 * spread**2 + sigma**2
        beside = x_t.view(-1, 1, 2) - alpha * means
        weights = torch.softmax(-beside.square().sum(dim=2, keepdim=True) / (2 * variance), dim=1)
        return Estimate((weights * (means + alpha * spread**2 / variance * beside)).sum(dim=1).view_as(x_t))

    noise = normal((n, 1, 1, 2))
    grid = grids.log_snr(process, 60)
    walk = langevin.predictor_corrector(
        denoise, process, process.prior_std * noise(), grid, noise, steps=steps, snr=0.16
    )
    beside = last(walk).view(n, 1, 2) - means
    distance, which = beside.norm(dim=2).min(dim=1)
    assert distance.max() < 6 * spread
    shares = torch.bincount(which, minlength=3) / n
    assert (shares - 1 / 3).abs().max() < 4 * math.sqrt(2 / 9 / n) + 0.02
    for k in range(3):
        own = beside[which == k, k]
        assert (own.std(dim=0) - spread).abs().max() < 0.1 * spread


def test_churn_of_zero_draws_no_noise_and_churn_draws_it_in_its_range_only() -> None:
    process = PROCESSES["cosine"]
    drawn = []
    source = normal((2, 1, 2, 2))

    def counted() -> Tensor:
        drawn.append(1)
        return source()

    grid = grids.karras(process, 10, rho=7)
    x_T = source()
    last(HEUN(gaussian_denoiser(process), process, x_T, grid, counted))
    assert len(drawn) == 0
    noise_levels = [(process.sigma(t) / process.alpha(t)).item() for t in torch.tensor([grid[:-1]]).T]
    inside = sum(0.1 <= level <= 10.0 for level in noise_levels)
    assert 0 < inside < 10
    last(HEUN(gaussian_denoiser(process), process, x_T, grid, counted, churn=5.0, churn_range=(0.1, 10.0)))
    assert len(drawn) == inside


@pytest.mark.parametrize("name", EVERY)
def test_a_process_that_ends_in_pure_noise_can_be_sampled(name: str) -> None:
    """At zero terminal SNR lambda is minus infinity, and x_T / alpha_T is not defined."""
    process = make_schedule("cosine", 1000, zero_terminal=True)
    assert process.alpha(torch.tensor([1000])) == 0
    noise = normal((200, 1, 6, 6))
    x = last(EVERY[name](gaussian_denoiser(process), process, noise(), grids.optimized(process, 60), noise))
    if name != "langevin":  # walks in x / alpha, which it cannot leave infinity in
        assert abs(x.mean() - MEAN) < 0.05
        assert abs(x.std() - STD) < 0.05


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"langevin"}))
@pytest.mark.parametrize("time_grid", ["karras", "log_snr"])
def test_a_short_chain_that_jumps_to_pure_noise_can_be_sampled(name: str, time_grid: str) -> None:
    process, noise = make_schedule("cosine", 50, zero_terminal=True), normal((4, 1, 2, 2))
    x = last(drawn(recipe(sampler=name, steps=10, time_grid=time_grid), gaussian_denoiser(process), process, noise))
    assert bool(x.isfinite().all())


def test_sampling_starts_at_the_noise_of_the_first_time_of_the_grid() -> None:
    process, seen = VarianceExploding(0.002, 1000.0), []

    def denoise(x_t: Tensor, t: Tensor) -> Estimate:
        seen.append((x_t.std().item(), process.sigma(t[:1]).item()))
        return Estimate(torch.zeros_like(x_t))

    last(drawn(recipe(steps=3, time_grid="log_snr"), denoise, process, normal((4, 1, 64, 64))))
    std, sigma = seen[0]
    assert sigma < 200  # below the largest noise of the process, 1000
    assert std == pytest.approx(sigma, rel=0.05)


def test_no_sampler_asks_the_denoiser_more_often_than_it_was_allowed() -> None:
    process, inner = PROCESSES["cosine"], {"steps": 2}
    for name in SAMPLERS:
        for evaluations in (3, 8, 13):
            asked = []

            def denoise(x_t: Tensor, t: Tensor, asked: list[int] = asked) -> Estimate:
                asked.append(1)
                return Estimate(torch.zeros_like(x_t))

            settings = recipe(
                sampler=name, steps=evaluations, time_grid="log_snr", langevin=inner, predictor_corrector=inner
            )
            last(drawn(settings, denoise, process, normal((1, 1, 2, 2))))
            most = {"heun": 2, "langevin": 2, "predictor_corrector": 3}.get(name, 1)
            assert evaluations - most < len(asked) <= evaluations, name


def test_langevin_keeps_up_with_the_noise_only_in_several_times_the_steps_that_shrink_it() -> None:
    process = VarianceExploding(0.002, 80.0)
    shape, snr, levels = (2000, 1, 1, 1), 0.16, 31
    needed = math.log(80.0 / 0.002) / (2 * snr**2)  # as docs/mathematics.md says, section 5

    def spread(times: float) -> float:
        grid = grids.log_snr(process, levels)
        x_T, steps = 80.0 * normal(shape)(), round(times * needed / levels)
        denoise = gaussian_denoiser(process)
        walk = langevin.annealed_langevin(denoise, process, x_T, grid, normal(shape, 1), steps=steps, snr=snr)
        return float(last(walk).std()) / STD

    assert spread(0.2) > 10
    assert spread(4) == pytest.approx(1, abs=0.2)
