"""Every sampler by its name: which function it is, what it is told, and what a step of it costs."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ddpm.sampling.langevin import annealed_langevin, predictor_corrector
from ddpm.sampling.samplers import Step, ddim, ddpm
from ddpm.sampling.settings import Settings
from ddpm.sampling.solvers import dpm_solver_pp, heun, unipc

Run = Callable[..., Iterator[Step]]


class Sampler(NamedTuple):
    """A row of SAMPLERS."""

    run: Run
    """(denoise, process, x_T, grid, noise, **told) -> steps."""
    told: Callable[[Settings, float], dict[str, object]]
    """Its own arguments, from the settings and eta."""
    steps: Callable[[int, int], int] = lambda evaluations, _: evaluations
    """Steps of the grid that so many evaluations of the denoiser pay for, given `langevin_steps`."""


def _heun(settings: Settings, eta: float) -> dict[str, object]:
    low, high = settings.churn_range
    return {
        "churn": settings.churn,
        "churn_range": (low, math.inf if high is None else high),
        "churn_noise": settings.churn_noise,
    }


def _langevin(settings: Settings, eta: float) -> dict[str, object]:
    return {"steps": settings.langevin_steps, "snr": settings.langevin_snr}


SAMPLERS: dict[str, Sampler] = {
    "ddpm": Sampler(ddpm, lambda settings, eta: {"variance": settings.variance}),
    "ddim": Sampler(ddim, lambda settings, eta: {"eta": eta}),
    "heun": Sampler(heun, _heun, lambda evaluations, _: (evaluations + 1) // 2),
    "dpmpp_2m": Sampler(dpm_solver_pp, lambda settings, eta: {"order": 2}),
    "dpmpp_3m": Sampler(dpm_solver_pp, lambda settings, eta: {"order": 3}),
    "dpmpp_2m_sde": Sampler(dpm_solver_pp, lambda settings, eta: {"order": 2, "stochastic": True}),
    "unipc": Sampler(unipc, lambda settings, eta: {"order": settings.order}),
    "langevin": Sampler(annealed_langevin, _langevin, lambda evaluations, inner: max((evaluations - 1) // inner, 1)),
    "predictor_corrector": Sampler(
        predictor_corrector, _langevin, lambda evaluations, inner: max((evaluations + inner) // (1 + inner), 1)
    ),
}
