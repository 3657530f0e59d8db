"""Grids: their times, and that the optimised one has the least error."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.processes import LinearPath, Process, VarianceExploding
from ddpm.diffusion.schedules import make_continuous_schedule, make_schedule
from ddpm.sampling import grids, samplers
from ddpm.sampling.catalogue import GRIDS, function

PROCESSES: dict[str, Process] = {
    "cosine": make_schedule("cosine", 1000),
    "linear": make_schedule("linear", 1000),
    "zero terminal": make_schedule("cosine", 1000, zero_terminal=True),
    "continuous": make_continuous_schedule("sigmoid", 1.0),
    "exploding": VarianceExploding(0.002, 80.0),
    "path": LinearPath(1.0, shift=0.5),
}


def grid_of(name: str, process: Process, steps: int) -> list[float]:
    return function(GRIDS[name])(process, steps, **({"rho": 7.0} if name == "karras" else {}))


def noise_levels(process: Process, grid: list[float]) -> list[float]:
    t = torch.tensor(grid[:-1], dtype=torch.float64)
    return (process.sigma(t) / process.alpha(t)).tolist()


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_every_grid_falls_to_0_in_so_many_steps(name: str, process: Process, steps: int) -> None:
    grid = grid_of(name, process, steps)
    assert len(grid) == steps + 1
    assert grid[0] <= process.T
    assert grid[-1] == 0
    assert all(t > s for t, s in pairwise(grid))


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_falls_to_0_on_a_linear_path_of_any_shift(name: str) -> None:
    for shift in (0.1, 0.2, 0.3, 0.42, 0.7, 1.1, 3.0, 10.0):
        grid = grid_of(name, LinearPath(1000.0, shift), 10)
        assert len(grid) == 11
        assert grid[-1] == 0
        assert all(t > s for t, s in pairwise(grid))


def test_the_time_of_a_noise_level_has_that_level() -> None:
    for process in PROCESSES.values():
        for level in (0.05, 0.5, 5.0, 50.0):
            t = torch.tensor([grids.time_of(process, level)], dtype=torch.float64)
            assert (process.sigma(t) / process.alpha(t)).item() == pytest.approx(level, rel=1e-3)


def bisected(process: Process, noise: float) -> float:
    """Search one noise level after the other, in plain numbers."""
    low, high = 0.0, float(process.T)
    for _ in range(50):
        middle = (low + high) / 2
        t = torch.tensor([middle], dtype=torch.float64)
        if process.sigma(t).item() < noise * process.alpha(t).item():
            low = middle
        else:
            high = middle
    return low


@pytest.mark.parametrize("time", ["discrete", "continuous"])
@pytest.mark.parametrize("name", ["cosine", "linear", "sigmoid", "path", "exploding"])
def test_levels_that_are_searched_together_have_the_times_to_the_bit_of_those_searched_one_by_one(
    name: str, time: str
) -> None:
    processes: list[Process] = [VarianceExploding(0.002, 80.0)] if name == "exploding" else [LinearPath(1000.0, 0.3)]
    if name not in ("exploding", "path"):
        make = make_schedule if time == "discrete" else make_continuous_schedule
        processes = [make(name, 1000, zero_terminal=zero, shift=2 if zero else 1) for zero in (False, True)]
    for process in processes:
        high = min(grids._noise_range(process))
        for steps in (1, 18, 50):
            noises = [high * 1.7**k for k in range(steps)]
            assert grids.times_of(process, noises) == tuple(bisected(process, noise) for noise in noises)


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_of_the_same_settings_is_not_searched_again(name: str) -> None:
    process = make_schedule("cosine", 1000)
    first = grid_of(name, process, 20)
    searched = grids._bisected.cache_info().misses
    assert grid_of(name, process, 20) == first
    assert grids._bisected.cache_info().misses == searched


def test_karras_is_equation_5_of_karras_et_al() -> None:
    process = VarianceExploding(0.002, 80.0)
    expected = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    assert noise_levels(process, grids.karras(process, 18, rho=7)) == pytest.approx(expected, rel=1e-5)


def test_log_snr_is_even_in_the_logarithm_of_the_noise_level() -> None:
    for process in PROCESSES.values():
        logs = [math.log(level) for level in noise_levels(process, grids.log_snr(process, 12))]
        gaps = [a - b for a, b in pairwise(logs)]
        assert gaps == pytest.approx([sum(gaps) / len(gaps)] * len(gaps), rel=2e-2)


def test_log_snr_can_begin_at_a_noise_level_above_the_least_of_the_process() -> None:
    path = LinearPath(1000.0)
    assert noise_levels(path, grids.log_snr(path, 5, least=0.004))[-1] == pytest.approx(0.004, rel=1e-3)
    assert grids.log_snr(path, 5, least=1e-5) == grids.log_snr(path, 5)


def test_quadratic_is_even_in_the_root_of_t() -> None:
    roots = [math.sqrt(t) for t in grids.quadratic(PROCESSES["linear"], 10)[:-1]]
    assert roots == pytest.approx([math.sqrt(1000) + (1 - math.sqrt(1000)) * i / 9 for i in range(10)])


def test_no_grid_near_the_optimised_one_errs_less_on_gaussian_data() -> None:
    """The error is that at the end of the DDIM path of N(0, c^2) data from sigma 80."""
    process, c = VarianceExploding(0.002, 80.0), grids.SIGMA_DATA

    def denoise(x_t: Tensor, t: Tensor) -> Estimate:
        return Estimate(x_t * c**2 / (c**2 + process.sigma(t[0]) ** 2))

    def error(grid: list[float]) -> float:
        *_, last = samplers.ddim(denoise, process, torch.ones(1, 1, 1, 1), grid, lambda: torch.zeros(()), eta=0.0)
        return abs(last.x_t.item() - c / math.sqrt(c**2 + 80**2))

    steps = 24
    best = grids.optimized(process, steps)
    least = error(best)
    for name in GRIDS:
        assert least <= error(grid_of(name, process, steps)), name
    for power in (0.9, 1.1):  # denser at one end, thinner at the other
        bent = [80 * (t / 80) ** power for t in best]
        assert least < error(bent)
    for factor in (0.5, 2.0):  # made for data of another width
        top = math.atan(80 / (factor * c))
        other = [factor * c * math.tan(top * (steps - i) / steps) for i in range(steps)]
        assert least < error([*other, 0])
