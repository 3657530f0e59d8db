"""Restoration of images from a known part, a measurement or a noisy version.

Nothing here is a sampler: `repaint` combines steps of `samplers.ddpm`, `consistent` wraps a denoiser for any sampler,
and `start_of_noisy` returns where a sampler begins.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ddpm.degrading.operators import Operator
from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.gaussian import q_sample, transition
from ddpm.diffusion.processes import Process
from ddpm.sampling import samplers
from ddpm.sampling.grids import time_of
from ddpm.sampling.samplers import Denoise, Noise, Step, instant


def resampling_path(grid: Sequence[float], *, jump: int, resamplings: int) -> list[float]:
    """Return the grid with detours: every `jump` steps, `resamplings - 1` times back up by `jump` steps and down again.

    Lugmayr et al. 2022, Sec. 4.2; the turning points are those of the authors' published code, which for a jump of
    1 are those of Algorithm 1. With one resampling it is the grid itself. The length grows with `resamplings`, not with
    `jump`.
    """
    steps = len(grid) - 1
    detours = dict.fromkeys(range(1, steps - jump + 1, jump), resamplings - 1)  # by steps left
    path, place = [grid[0]], 0
    while place < steps:
        place += 1
        path.append(grid[place])
        if detours.get(steps - place, 0) > 0:
            detours[steps - place] -= 1
            place -= jump
            path.append(grid[place])
    return path


def repaint(
    denoise: Denoise,
    process: Process,
    x_T: Tensor,
    path: Sequence[float],
    noise: Noise,
    *,
    known: Tensor,
    mask: Tensor,
) -> Iterator[Step]:
    """Inpaint: `known` where `mask` (bool, broadcast to [N, C, *shape]) is true, the model's proposal elsewhere.

    Lugmayr et al. 2022, Algorithm 1: after a step down, the known part of x_s is drawn from q(x_s | x_0) and the
    rest from p(x_s | x_t); a step up draws once from q(x_t | x_s), whatever its length. The steps up make the
    two parts agree: without them the proposal depends on the known part only through x_t. Where the mask is true, the
    last step's x_t is `known` itself, to the bit.
    """
    x_t = x_T
    for t, s in pairwise(path):
        if s > t:
            factor, variance = transition(process, instant(s), instant(t))
            x_t = factor * x_t + variance.sqrt() * noise()
            continue
        (step,) = samplers.ddpm(denoise, process, x_t, [t, s], noise, variance="small")
        drawn = q_sample(process, known, instant(s), noise()) if s > 0 else known
        x_t = torch.where(mask, drawn, step.x_t)
        yield step._replace(x_t=x_t)


def consistent(denoise: Denoise, operator: Operator, y: Tensor) -> Denoise:
    """Return a denoiser that corrects each estimate of x_0 so that its measurement is y: A^+ y + (I - A^+ A) x_0.

    The correction is the smallest that does this: Wang et al. 2023 (DDNM), Eq. 13. A sampler ends at an estimate of
    x_0, so its result has A x = y up to float rounding, and the model determines what A does not measure. The result
    may leave [-1, 1]: see `Operator.settle`. y must be without noise.
    """

    def estimate(x_t: Tensor, t: Tensor) -> Estimate:
        x_0, fraction = denoise(x_t, t)
        return Estimate(x_0 + operator.undo(y - operator.measure(x_0)), fraction)

    return estimate


def start_of_noisy(process: Process, y: Tensor, grid: Sequence[float], *, std: float) -> tuple[Tensor, list[float]]:
    """Return the start for denoising y = x_0 + std * eps: x_t at y's noise level, and the grid from there on.

    alpha_t y is a draw from q(x_t | x_0) where sigma_t / alpha_t = std, so a sampler that reverses the process from
    there draws x_0 from its posterior given y, with no further approximation (Kawar et al. 2021, Sec. 3).
    `std` is in units of the model's range [-1, 1]; above the process's largest noise level, t is T.
    """
    t = time_of(process, std)
    return process.alpha(instant(t)) * y, [t, *(s for s in grid if s < t)]
