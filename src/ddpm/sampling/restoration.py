"""Restoration of images from a known part, a measurement or a noisy version.

Nothing here is a sampler: `repaint` combines steps of `samplers.ddpm`, `consistent` wraps a denoiser for any sampler,
and `start_of_noisy` returns where a sampler begins.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.gaussian import q_sample, transition
from ddpm.diffusion.processes import Process
from ddpm.images import TOP, clipped, from_levels, to_levels
from ddpm.sampling import samplers
from ddpm.sampling.grids import time_of
from ddpm.sampling.samplers import Denoise, Noise, Step, instant

HALVINGS = 40
"""Bisection steps of an interval of shifts, a few hundred levels wide: more than the precision of float32 needs."""
ITERATIONS = 300
"""Iterations of the least squares of a blur, after which the fit to blurred digits is better than the digits' own."""


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


@dataclass(frozen=True)
class Operator:
    """A linear measurement y = A x and its pseudo-inverse A^+: A A^+ A = A and A^+ A A^+ = A^+."""

    measure: Callable[[Tensor], Tensor]
    """A: [N,C,H,W] -> measurement."""
    undo: Callable[[Tensor], Tensor]
    """A^+: measurement -> [N,C,H,W], the x of least norm with that measurement."""
    settle: Callable[[Tensor, Tensor], Tensor]
    """(x [N,C,H,W] with A x = y, y) -> [N,C,H,W] in [-1, 1] on the 256 levels, with a measurement as near to y as
    possible. Clipping x alone would change its measurement."""


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


def average_pooling(factor: int) -> Operator:
    """Return the operator of super-resolution: each measured pixel is the mean of a square of `factor` x `factor`.

    Settled images have exactly these means if y is on whole levels.
    """

    def settle(x: Tensor, y: Tensor) -> Tensor:
        squares = F.pixel_unshuffle(x, factor).unflatten(1, (-1, factor**2))
        return F.pixel_shuffle(_with_mean(squares, y).flatten(1, 2), factor)

    return Operator(
        measure=lambda x: F.avg_pool2d(x, factor),
        undo=lambda y: y.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3),
        settle=settle,
    )


def grey() -> Operator:
    """Return the operator of colourisation: the mean of the channels, [N,1,H,W].

    Settled images have exactly this mean if y is on whole levels.
    """
    return Operator(
        measure=lambda x: x.mean(dim=1, keepdim=True),
        undo=lambda y: y.expand(-1, 3, -1, -1),
        settle=lambda x, y: _with_mean(x[:, None], y)[:, 0],
    )


def _with_mean(x: Tensor, y: Tensor) -> Tensor:
    """Return values near x [N,M,n,h,w] on the 256 levels of [-1, 1], with the mean y [N,M,h,w] over dimension 2.

    The nearest real numbers in the range with that mean are x plus one shift, clipped (the shift is the constraint's
    Lagrange multiplier). The nearest whole levels with that sum are these numbers, rounded up where their fractions are
    largest. For a y between two levels the mean is off by at most 1/(2n) of a level.
    """
    n, x, y = x.shape[2], to_levels(x), to_levels(y[:, :, None])
    low, high = -x.amax(dim=2, keepdim=True), TOP - x.amin(dim=2, keepdim=True)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = (x + middle).clamp(0, TOP).mean(dim=2, keepdim=True) < y
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    x = (x + high).clamp(0, TOP)
    whole = x.floor().clamp(max=TOP - 1)
    missing = (n * y).round() - whole.sum(dim=2, keepdim=True)
    rank = (x - whole).argsort(dim=2, descending=True, stable=True).argsort(dim=2)
    return from_levels(whole + (rank < missing))


def gaussian_blur(size: int, *, width: float, smallest: float) -> Operator:
    """Return the operator of deblurring, a Gaussian of standard deviation `width` (pixels) for size x size images.

    The blur is along rows and columns. Beyond the border the image is mirrored. Singular values of A below `smallest`
    count as not measured, because y has only rounding error there.

    In general no x in [-1, 1] has exactly a measurement y of 256 levels. The settled image is the one in [-1, 1] whose
    measurement is nearest to y (least squares, started from x). Its error is at most that of the image that y was made
    from; rounding it to 256 levels adds at most half a level.
    """
    at = torch.arange(size, dtype=torch.float64)
    reach = torch.arange(-4 * size, 5 * size)
    mirrored = torch.minimum(reach % (2 * size), 2 * size - 1 - reach % (2 * size))
    weights = torch.exp(-0.5 * ((reach[None] - at[:, None]) / width) ** 2)
    one_way = torch.zeros(size, size, dtype=torch.float64).index_add_(1, mirrored, weights)
    u, s, vh = torch.linalg.svd(one_way / one_way.sum(dim=1, keepdim=True))
    gain = s[:, None] * s[None, :]
    seen = gain >= smallest
    # A is the Kronecker product of the one-dimensional blur with itself, so its singular vectors are products too.
    measured, undone = torch.where(seen, gain, 0), torch.where(seen, 1 / gain, 0)

    @lru_cache(maxsize=1)
    def there(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return u, vh and the gains on the device; they are copied once and not in every evaluation."""
        return tuple(matrix.to(device, dtype) for matrix in (u, vh, measured, undone))

    def blur(x: Tensor) -> Tensor:
        u, vh, gain, _ = there(x.device, x.dtype)
        return _between(x, vh, gain, u)

    def back(y: Tensor) -> Tensor:
        u, vh, gain, _ = there(y.device, y.dtype)
        return _between(y, u.T, gain, vh.T)

    def undo(y: Tensor) -> Tensor:
        u, vh, _, gain = there(y.device, y.dtype)
        return _between(y, u.T, gain, vh.T)

    return Operator(blur, undo, lambda x, y: _on_levels(_fitted(x, lambda x: back(blur(x) - y))))


def _fitted(x: Tensor, gradient: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the least-squares x in [-1, 1], by the gradient A^T (A x - y), for |A| <= 1.

    Beck and Teboulle 2009 (FISTA), Sec. 4, with a constant step: the error falls as 1 / iterations^2.
    """
    x = ahead = clipped(x)
    momentum = 1.0
    for _ in range(ITERATIONS):
        following = clipped(ahead - gradient(ahead))
        grown = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = following + (momentum - 1) / grown * (following - x)
        x, momentum = following, grown
    return x


def _on_levels(x: Tensor) -> Tensor:
    return from_levels(to_levels(x).round().clamp(0, TOP))


def _between(x: Tensor, into: Tensor, gain: Tensor, out: Tensor) -> Tensor:
    return out @ (gain * (into @ x @ into.T)) @ out.T


def start_of_noisy(process: Process, y: Tensor, grid: Sequence[float], *, std: float) -> tuple[Tensor, list[float]]:
    """Return the start for denoising y = x_0 + std * eps: x_t at y's noise level, and the grid from there on.

    alpha_t y is a draw from q(x_t | x_0) where sigma_t / alpha_t = std, so a sampler that reverses the process from
    there draws x_0 from its posterior given y, with no further approximation (Kawar et al. 2021, Sec. 3).
    `std` is in units of the model's range [-1, 1]; above the process's largest noise level, t is T.
    """
    t = time_of(process, std)
    return process.alpha(instant(t)) * y, [t, *(s for s in grid if s < t)]
