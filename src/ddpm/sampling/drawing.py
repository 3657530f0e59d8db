"""Sampling by settings: the sampler and grid that they name, and guidance and clipping around the denoiser."""

import math
from collections.abc import Iterator

import torch

from ddpm.diffusion.processes import Process
from ddpm.sampling.catalogue import GRIDS, SAMPLERS, function
from ddpm.sampling.guidance import ConditionalDenoise, autoguided, classifier_free, clipped, thresholded, within
from ddpm.sampling.samplers import Denoise, Noise, Step, at
from ddpm.sampling.settings import Drawing


def drawn(drawing: Drawing, denoise: Denoise, process: Process, noise: Noise) -> Iterator[Step]:
    """Run the reverse process from x_T to the image, step by step.

    `drawing.steps` counts evaluations of the denoiser. A sampler with several evaluations per step takes fewer steps.
    """
    row, options = SAMPLERS[drawing.sampler], drawing.options(drawing.sampler)
    steps = row.steps(drawing.steps, options)
    grid = function(GRIDS[drawing.time_grid])(process, steps, **drawing.options(drawing.time_grid))
    first, last = (process.sigma(at(t, torch.zeros(1))).item() for t in (grid[0], process.T))
    x_T = process.prior_std * first / last * noise()
    return function(row.function)(denoise, process, x_T, grid, noise, **row.fixed, **options)


def surrounded(
    drawing: Drawing, denoise: ConditionalDenoise, process: Process, weaker: ConditionalDenoise | None
) -> ConditionalDenoise:
    """Add guidance to the denoiser and clip or threshold x_0 to [-1, 1]. `weaker` is the guide's denoiser, if any."""
    low, high = drawing.guidance_interval
    bounds = (low, math.inf if high is None else high)
    active = None if bounds == (0, math.inf) else within(process, bounds)
    scale, rescale = drawing.guidance, drawing.guidance_rescale
    if weaker is not None:
        guided = autoguided(denoise, weaker, scale=scale, rescale=rescale, active=active)
    else:
        guided = classifier_free(denoise, scale=scale, rescale=rescale, active=active)
    if drawing.threshold is not None:
        return thresholded(guided, quantile=drawing.threshold)
    return clipped(guided)
