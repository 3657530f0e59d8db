"""With the same network and the same noise, diffusers gives the same images."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.schedules import make_schedule
from ddpm.sampling import samplers, solvers
from ddpm.sampling.grids import uniform_grid

diffusers = pytest.importorskip("diffusers")

PROCESS = make_schedule("linear", 1000)
SHAPE = (2, 1, 8, 8)
COMMON: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "trained_betas": PROCESS.betas[1:].numpy(),
    "prediction_type": "sample",
    "timestep_spacing": "trailing",
}


def network() -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(x_0, fraction) from an untrained network in (-1, 1): smooth, and without symmetry that could hide an error."""
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.randn(size, generator=generator) / 3 for size in ((8, 1, 3, 3), (2, 8, 3, 3)))

    def both(x_t: Tensor, t: Tensor) -> Estimate:
        hidden = torch.tanh(torch.conv2d(x_t, first, padding=1) + t.view(-1, 1, 1, 1).float() / 500)
        x_0, place = torch.tanh(torch.conv2d(hidden, second, padding=1)).chunk(2, dim=1)
        return Estimate(x_0, (place + 1) / 2)

    return both


BOTH = network()


def stream() -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randn(SHAPE, generator=generator)


def theirs(scheduler: Any, steps: int, learned: bool = False, skip: int = 0, **told: Any) -> Tensor:
    """Run their loop without the last `skip` steps; their time is ours minus 1, and they draw as `stream` does."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SHAPE, generator=generator)
    scheduler.set_timesteps(steps)
    random = "generator" in scheduler.step.__code__.co_varnames
    for t in scheduler.timesteps[: steps - skip]:
        x_0, fraction = BOTH(x, torch.full((len(x),), int(t) + 1))
        answer = torch.cat([x_0, 2 * fraction - 1], dim=1) if learned else x_0
        x = scheduler.step(answer, t, x, **told, **({"generator": generator} if random else {})).prev_sample
    return x


def ours(sampler: Callable[..., Any], steps: int, net: Any = None, skip: int = 0, **told: Any) -> Tensor:
    noise = stream()
    every = list(sampler(net or BOTH, PROCESS, noise(), uniform_grid(1000, steps), noise, **told))
    return every[-1 - skip].x_t


@pytest.mark.parametrize(
    ("variance", "name", "skip"),
    [("small", "fixed_small", 0), ("large", "fixed_large", 1), ("learned", "learned_range", 1)],
)
def test_ddpm_up_to_the_last_step_where_theirs_adds_noise(variance: str, name: str, skip: int) -> None:
    scheduler = diffusers.DDPMScheduler(**COMMON, clip_sample=False, variance_type=name)
    learned = variance == "learned"
    assert torch.allclose(
        ours(samplers.ddpm, 50, skip=skip, variance=variance),
        theirs(scheduler, 50, learned=learned, skip=skip),
        atol=2e-4,
    )


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(eta: float) -> None:
    scheduler = diffusers.DDIMScheduler(**COMMON, clip_sample=False)
    assert torch.allclose(ours(samplers.ddim, 25, eta=eta), theirs(scheduler, 25, eta=eta), atol=1e-4)


def test_ddim_of_a_clipped_denoiser_agrees_only_with_their_use_of_the_clipped_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quiet = BOTH
    monkeypatch.setitem(globals(), "BOTH", lambda x_t, t: Estimate(3 * quiet(x_t, t).x_0))
    scheduler = diffusers.DDIMScheduler(**COMMON, clip_sample=True)
    made = ours(samplers.ddim, 25, lambda x_t, t: Estimate(BOTH(x_t, t).x_0.clamp(-1, 1)), eta=0.5)
    assert torch.allclose(made, theirs(scheduler, 25, eta=0.5, use_clipped_model_output=True), atol=1e-4)
    assert (made - theirs(scheduler, 25, eta=0.5)).abs().max() > 0.01


@pytest.mark.parametrize("steps", [10, 25])
@pytest.mark.parametrize("stochastic", [False, True])
def test_dpm_solver_pp_of_order_2(stochastic: bool, steps: int) -> None:
    kind = "sde-dpmsolver++" if stochastic else "dpmsolver++"
    scheduler = diffusers.DPMSolverMultistepScheduler(**COMMON, solver_order=2, algorithm_type=kind)
    assert torch.allclose(
        ours(solvers.dpm_solver_pp, steps, order=2, stochastic=stochastic), theirs(scheduler, steps), atol=2e-4
    )


@pytest.mark.parametrize("steps", [12, 25])
def test_dpm_solver_pp_of_order_3_but_for_the_half_of_its_second_difference_and_its_last_steps(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(**COMMON, solver_order=3, algorithm_type="dpmsolver++")
    expected = theirs(scheduler, steps)
    assert (ours(solvers.dpm_solver_pp, steps, order=3) - expected).abs().max() > 1e-3
    whole = solvers._differences

    def halved(past: Any, h: float) -> Any:
        slope, curvature = whole(past, h)
        return slope, None if curvature is None else curvature / 2

    def of_the_last_step(order: int, nodes: Any, k: int) -> int:
        return 1 if k == len(nodes) - 2 else min(order, k + 1)

    monkeypatch.setattr(solvers, "_differences", halved)
    if steps >= 15:
        monkeypatch.setattr(solvers, "_affordable", of_the_last_step)
    assert torch.allclose(ours(solvers.dpm_solver_pp, steps, order=3), expected, atol=2e-4)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [8, 25])
def test_unipc(order: int, steps: int) -> None:
    scheduler = diffusers.UniPCMultistepScheduler(**COMMON, solver_order=order, solver_type="bh2")
    assert torch.allclose(ours(solvers.unipc, steps, order=order), theirs(scheduler, steps), atol=2e-4)


def test_heun() -> None:
    """Theirs works in x / alpha and returns the time of each of its two evaluations."""
    scheduler = diffusers.HeunDiscreteScheduler(**COMMON)
    grid = uniform_grid(1000, 20)
    scheduler.set_timesteps(timesteps=[t - 1 for t in grid[:-1]])
    x = stream()() / PROCESS.alpha(torch.tensor([1000]))
    for t in scheduler.timesteps:
        now = torch.full((len(x),), int(t) + 1)
        x = scheduler.step(BOTH(PROCESS.alpha(now[0]) * x, now).x_0, t, x).prev_sample
    assert torch.allclose(ours(solvers.heun, 20, churn=0.0, churn_range=(0.0, None), churn_noise=1.0), x, atol=2e-3)
