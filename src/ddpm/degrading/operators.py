"""What a degraded picture has lost: linear measurements of an image, as `ddpm restore` undoes them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.images import TOP, clipped, from_levels, to_levels

HALVINGS = 40
"""Bisection steps of an interval of shifts, a few hundred levels wide: more than the precision of float32 needs."""
ITERATIONS = 300
"""Iterations of the least-squares fit of a blur; with so many, the fit to blurred digits has a smaller error than the
digits themselves."""


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
