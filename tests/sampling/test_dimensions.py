"""The mathematics does not depend on the number of dimensions of a sample: any shape gives the same numbers."""

import math
from collections.abc import Callable

import pytest
import torch
from exact import MEAN, STD, gaussian_denoiser, last, normal
from torch import Tensor

from ddpm.diffusion import objectives
from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.gaussian import q_posterior, q_sample
from ddpm.diffusion.objectives import TARGETS, WEIGHTS
from ddpm.diffusion.processes import Process, VarianceExploding
from ddpm.diffusion.schedules import make_schedule
from ddpm.diffusion.settings import Objective, Target, Weight
from ddpm.sampling import editing, guidance, restoration
from ddpm.sampling.catalogue import SAMPLERS, function
from ddpm.sampling.grids import log_snr, uniform_grid
from ddpm.sampling.likelihood import ode_bound, variational_bound

Shape = tuple[int, ...]
PICTURES: Shape = (3, 2, 4, 6)
OTHERS: list[Shape] = [(3, 2, 24), (3, 2, 2, 3, 4)]
PROCESSES: dict[str, Process] = {"cosine": make_schedule("cosine", 100), "exploding": VarianceExploding(0.01, 30.0)}
OPTIONS: dict[str, dict[str, object]] = {
    "ddpm": {"variance": "small"},
    "ddim": {"eta": 0.5},
    "heun": {"churn": 0.0, "churn_range": (0.0, None), "churn_noise": 1.0},
    "unipc": {"order": 2},
    "langevin": {"steps": 10, "snr": 0.35},
    "predictor_corrector": {"steps": 10, "snr": 0.35},
}
COSINE = PROCESSES["cosine"]
T = torch.tensor([1, 40, 100])


def numbers(shape: Shape, seed: int = 0) -> Tensor:
    return normal((math.prod(shape),), seed)().view(shape)


def noise(shape: Shape, seed: int = 0) -> Callable[[], Tensor]:
    source = normal((math.prod(shape),), seed)
    return lambda: source().view(shape)


def mixing_estimate(x_t: Tensor, t: Tensor) -> Estimate:
    """Return the Gaussian's estimate and a separate fraction for each value, so that misplaced values are noticed."""
    return Estimate(gaussian_denoiser(COSINE)(x_t, t).x_0, torch.linspace(0, 1, x_t[0].numel()).view(x_t.shape[1:]))


def loss(shape: Shape, target: Target, weight: Weight, *, bounded: bool, learned: bool) -> Tensor:
    objective = Objective(
        target=target,
        weight=weight,
        min_snr_gamma=5.0,
        p2_gamma=1.0,
        sigma_data=0.5,
        learned_variance=learned,
        vlb_weight=0.1,
        bounded=bounded,
    )

    def network(x: Tensor, c_noise: Tensor) -> Tensor:
        assert x.shape == shape
        assert c_noise.shape == (len(x),)
        return torch.cat([x.tanh(), x.cos()], dim=1) if learned else x.tanh()

    return objectives.loss(objective, network, COSINE, x_0=numbers(shape).clamp(-1, 1), t=T, eps=numbers(shape, 1))


def guided(shape: Shape) -> Tensor:
    """Guidance, rescaling and dynamic thresholding around one denoiser."""
    strengths = torch.tensor([0.5, 2.0, 3.0])

    def denoise(x_t: Tensor, t: Tensor, condition: Tensor | None) -> Estimate:
        return Estimate(x_t if condition is None else x_t * condition.view(-1, *[1] * (len(shape) - 1)))

    active = guidance.within(COSINE, (0.0, 5.0))
    whole = guidance.thresholded(guidance.classifier_free(denoise, scale=3.0, rescale=0.7, active=active), quantile=0.9)
    return whole(numbers(shape), torch.full((3,), 40), strengths).x_0


def ode(shape: Shape, *, exact: bool) -> Tensor:
    *grid, _ = log_snr(COSINE, 5)
    signs = noise(shape, 2)
    return ode_bound(
        gaussian_denoiser(COSINE),
        COSINE,
        numbers(shape).clamp(-1, 1),
        grid,
        noise(shape, 1),
        None if exact else lambda: signs().sign(),
    )


def repainted(shape: Shape) -> Tensor:
    path = restoration.resampling_path(uniform_grid(100, 6), jump=2, resamplings=2)
    known, draw = numbers(shape, 3), noise(shape)
    mask = known > 0
    denoise = gaussian_denoiser(COSINE)
    return last(restoration.repaint(denoise, COSINE, draw(), path, draw, known=known, mask=mask))


def bound(shape: Shape) -> Tensor:
    x_0, grid = numbers(shape).clamp(-1, 1), uniform_grid(100, 8)
    return torch.cat([part.flatten() for part in variational_bound(mixing_estimate, COSINE, x_0, grid, noise(shape))])


CASES: dict[str, Callable[[Shape], Tensor]] = {
    "q_sample": lambda shape: q_sample(COSINE, numbers(shape), T, numbers(shape, 1)),
    "mean of q_posterior": lambda shape: q_posterior(COSINE, numbers(shape), numbers(shape, 1), T, T - 1)[0],
    "variance of q_posterior": lambda shape: q_posterior(COSINE, numbers(shape), numbers(shape, 1), T, T - 1)[1],
    "variational bound": bound,
    "ODE's bound, exact trace": lambda shape: ode(shape, exact=True),
    "ODE's bound, Hutchinson's trace": lambda shape: ode(shape, exact=False),
    "guidance and thresholding": guided,
    "RePaint": repainted,
    "start of an edit": lambda shape: editing.start_of_edit(
        COSINE, numbers(shape), uniform_grid(100, 10), strength=0.5, noise=noise(shape, 1)
    )[0],
    "inversion": lambda shape: editing.ddim_inversion(
        gaussian_denoiser(COSINE), COSINE, numbers(shape), uniform_grid(90, 5), iterations=2
    ),
    "interpolation": lambda shape: editing.slerp(numbers(shape), numbers(shape, 1), torch.tensor([0.2, 0.5, 0.9])),
    "start of a noisy sample": lambda shape: restoration.start_of_noisy(
        COSINE, numbers(shape), uniform_grid(100, 5), std=0.5
    )[0],
} | {
    f"loss of {target} by {weight}": lambda shape, target=target, weight=weight: loss(  # type: ignore[misc]
        shape, target, weight, bounded=weight == "snr", learned=weight == "simple"
    )
    for target in TARGETS
    for weight in WEIGHTS
}


@pytest.mark.parametrize("shape", OTHERS)
@pytest.mark.parametrize("name", CASES)
def test_signals_and_volumes_give_the_numbers_that_pictures_give(name: str, shape: Shape) -> None:
    found, expected = CASES[name](shape), CASES[name](PICTURES)
    assert found.numel() == expected.numel()
    assert found.shape in ((3,), shape, (3, *[1] * (len(shape) - 1))) or found.ndim == 1
    # A sum over three dimensions may add in another order than one over one.
    assert torch.allclose(found.flatten(), expected.flatten(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_signals_pictures_and_volumes_of_the_gaussian_that_its_denoiser_knows(
    name: str, process: Process
) -> None:
    n, row = 600, SAMPLERS[name]
    options = {**row.fixed, **OPTIONS.get(name, {})}
    grid = log_snr(process, 40)
    samples = []
    for per_sample in ((2, 12), (2, 3, 4), (2, 3, 2, 2)):
        draw = noise((n, *per_sample))
        x_T = process.prior_std * draw()
        samples.append(last(function(row.function)(gaussian_denoiser(process), process, x_T, grid, draw, **options)))
        assert samples[-1].shape == (n, *per_sample)
    assert all(torch.equal(x.flatten(), samples[0].flatten()) for x in samples)
    # Four standard errors, and what few steps are off by.
    assert abs(samples[0].mean() - MEAN) < 4 * STD / math.sqrt(24 * n) + 0.03
    assert abs(samples[0].std() - STD) < 4 * STD / math.sqrt(2 * 24 * n) + 0.06
