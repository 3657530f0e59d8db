"""Samplers and time grids by name: which function each one is, and how many steps its evaluations pay for.

A function is named by its module in this room and imported when it is used: settings read the names without torch.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple


class Sampler(NamedTuple):
    """A row of SAMPLERS; the options of the sampler are the field of its name in `settings.Drawing`, if it has any."""

    function: str
    """(denoise, process, x_T, grid, noise, **fixed, **options) -> steps."""
    fixed: Mapping[str, Any] = {}
    """What makes this sampler of a more general function."""
    steps: Callable[[int, Mapping[str, Any]], int] = lambda evaluations, options: evaluations
    """Steps of the grid that so many evaluations of the denoiser pay for, given the options."""


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

GRIDS: Mapping[str, str] = {
    "uniform": "grids.uniform",
    "quadratic": "grids.quadratic",
    "karras": "grids.karras",
    "log_snr": "grids.log_snr",
    "optimized": "grids.optimized",
}
"""The function of every grid: (process, steps, **options) -> times, the options as with samplers."""


def function(name: str) -> Callable[..., Any]:
    """The function that a row names, as `module.function` of this room."""
    module, attribute = name.split(".")
    return getattr(import_module(f"{__package__}.{module}"), attribute)
