"""Samplers and time grids by name: the function of each, and its number of steps for a number of evaluations.

A function is given as `module.name` of this package and imported when it is used, so that settings can read the names
without torch.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple


class Sampler(NamedTuple):
    """A row of SAMPLERS. A sampler's options are the field of its name in `settings.Drawing`, if it has any."""

    function: str
    """(denoise, process, x_T, grid, noise, **fixed, **options) -> steps."""
    fixed: Mapping[str, Any] = {}
    """Fixed arguments that select this sampler from a more general function."""
    steps: Callable[[int, Mapping[str, Any]], int] = lambda evaluations, options: evaluations
    """(evaluations of the denoiser, options) -> number of grid steps."""


SAMPLERS: Mapping[str, Sampler] = {
    "ddpm": Sampler("samplers.ddpm"),
    "ddim": Sampler("samplers.ddim"),
    "heun": Sampler("solvers.heun", steps=lambda evaluations, options: (evaluations + 1) // 2),
    "dpmpp_2m": Sampler("solvers.dpm_solver_pp", {"order": 2}),
    "dpmpp_3m": Sampler("solvers.dpm_solver_pp", {"order": 3}),
    "dpmpp_2m_sde": Sampler("solvers.dpm_solver_pp", {"order": 2, "stochastic": True}),
    "unipc": Sampler("solvers.unipc"),
    "langevin": Sampler(
        "langevin.annealed_langevin",
        steps=lambda evaluations, options: max((evaluations - 1) // options["steps"], 1),
    ),
    "predictor_corrector": Sampler(
        "langevin.predictor_corrector",
        steps=lambda evaluations, options: max((evaluations + options["steps"]) // (1 + options["steps"]), 1),
    ),
}

DIRECT = "direct"
"""In place of a sampler, for a model that draws in one evaluation: a VAE or a GAN. No setting can choose it."""

GRIDS: Mapping[str, str] = {
    "uniform": "grids.uniform",
    "quadratic": "grids.quadratic",
    "karras": "grids.karras",
    "log_snr": "grids.log_snr",
    "optimized": "grids.optimized",
}
"""The function of every grid: (process, steps, **options) -> times. Options are found as for samplers."""


def function(name: str) -> Callable[..., Any]:
    """Import and return the function `module.name` of this package."""
    module, attribute = name.split(".")
    return getattr(import_module(f"{__package__}.{module}"), attribute)
