"""Sampling by settings: the sampler and grid that they name, and guidance and clipping around the denoiser."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ddpm.diffusion.bound import Estimate
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


COUNTED = 50
"""Largest number of steps whose guided evaluations are counted one by one."""


def evaluations(drawing: Drawing, process: Process) -> int:
    """Return the number of network evaluations for an image with a condition, those of guidance included.

    With guidance within an interval and at most COUNTED steps it is exact, by a walk of the sampler over two numbers:
    the levels that it visits do not depend on the image. Otherwise it is the largest number, because a walk of many
    steps takes long; this is exact for samplers with one evaluation a step, without guidance or with it at all levels.
    """
    if drawing.guidance == 1:
        return drawing.steps
    if drawing.steps > COUNTED or (drawing.guidance > 0 and _everywhere(drawing)):
        return 2 * drawing.steps
    asked = 0

    def denoise(x_t: Tensor, t: Tensor, condition: object) -> Estimate:
        nonlocal asked
        asked += 1
        return Estimate(torch.zeros_like(x_t))

    weaker = None if drawing.guide is None else denoise
    estimate = surrounded(replace(drawing, threshold=None), denoise, process, weaker)
    for _ in drawn(drawing, lambda x_t, t: estimate(x_t, t, True), process, lambda: torch.zeros(1, 1, 1, 2)):
        pass
    return asked


def surrounded(
    drawing: Drawing, denoise: ConditionalDenoise, process: Process, weaker: ConditionalDenoise | None
) -> ConditionalDenoise:
    """Add guidance to the denoiser and clip or threshold x_0 to [-1, 1]. `weaker` is the guide's denoiser, if any."""
    low, high = drawing.guidance_interval
    active = None if _everywhere(drawing) else within(process, (low, math.inf if high is None else high))
    scale, rescale = drawing.guidance, drawing.guidance_rescale
    if weaker is not None:
        guided = autoguided(denoise, weaker, scale=scale, rescale=rescale, active=active)
    else:
        guided = classifier_free(denoise, scale=scale, rescale=rescale, active=active)
    if drawing.threshold is not None:
        return thresholded(guided, quantile=drawing.threshold)
    return clipped(guided)


def _everywhere(drawing: Drawing) -> bool:
    """Return whether guidance is on at all noise levels."""
    return drawing.guidance_interval in ((0, None), (0, math.inf))
