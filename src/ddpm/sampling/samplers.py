"""Samplers go from noise to image along a grid of times. Here are the ancestral ones, and what all samplers share.

A sampler is a generator over (denoise, process, x_T, grid, noise). It does not depend on networks, conditions, guidance
or files: these are inside `denoise(x_t, t) -> Estimate`, the model's estimate of the image in x_t for t [N].
`noise()` returns standard normal [N, C, *shape], fresh at every call, so the caller controls the randomness.
A grid is a list of falling times, int or float, that ends in 0; x_T is at the first of them.

The other samplers are in `solvers` (of the probability-flow ODE) and `langevin`; `catalogue` lists all by name.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.gaussian import q_posterior, reverse_log_variance, transition
from ddpm.diffusion.objectives import eps_from_x_0
from ddpm.diffusion.processes import Process

Denoise = Callable[[Tensor, Tensor], Estimate]
"""(x_t [N, C, *shape], t [N]) -> the estimate of x_0, and of the variance of the step that leads there."""
Noise = Callable[[], Tensor]
"""Standard normal [N, C, *shape], fresh at every call."""


class Step(NamedTuple):
    """The state of the sampler after one step."""

    t: float
    """Time reached: the next smaller value of the grid."""
    x_t: Tensor
    """[N, C, *shape]; the sample itself when t is 0."""
    x_0: Tensor
    """The denoiser's estimate in this step."""


def ddpm(
    denoise: Denoise, process: Process, x_T: Tensor, grid: Sequence[float], noise: Noise, *, variance: str
) -> Iterator[Step]:
    """Ancestral sampling.  Ho et al. 2020, Algorithm 2.

    `variance` is that of p(x_s | x_t): beta-tilde_t ("small"), beta_t ("large"; both Sec. 3.2) or "learned" (Nichol
    and Dhariwal 2021, Eq. 15), which is the estimate's `fraction`.
    On a sparse grid it is the chain that visits only those times (Nichol and Dhariwal 2021, Sec. 4).

    diffusers' DDPMScheduler agrees for "small" and "large" if its time is ours minus 1 (`timestep_spacing` trailing,
    `clip_sample` off) and for "learned_range", except in its last step on a sparse grid: it adds noise there, and
    Algorithm 2 does not.
    """
    x_t = x_T
    for now, then in pairwise(grid):
        x_0, fraction = denoise(x_t, at(now, x_t))
        t, s = instant(now), instant(then)
        x_t, small = q_posterior(process, x_0, x_t, t, s)
        if then > 0:
            spread = _variance(variance, process, t, s, small=small, fraction=fraction)
            x_t = x_t + spread.sqrt() * noise()
        yield Step(then, x_t, x_0)


def _variance(name: str, process: Process, t: Tensor, s: Tensor, *, small: Tensor, fraction: Tensor | float) -> Tensor:
    if name == "small":
        return small
    if name == "large":
        return transition(process, t, s)[1]
    return reverse_log_variance(process, fraction, t, s).exp()


def ddim(
    denoise: Denoise, process: Process, x_T: Tensor, grid: Sequence[float], noise: Noise, *, eta: float
) -> Iterator[Step]:
    """DDIM: Song, Meng and Ermon 2020, Eq. 12, with sigma of Eq. 16. eta = 0 is deterministic, eta = 1 is `ddpm`.

    eta = 0 is the solver of order 1 of the probability-flow ODE. If `denoise` clips, eps is that of the clipped
    x_0, so that x_t stays alpha_t x_0 + sigma_t eps.

    diffusers' DDIMScheduler agrees if its time is ours minus 1, `set_alpha_to_one` makes its last step end at the image
    and, if it clips (`clip_sample`), `step` is called with `use_clipped_model_output=True`: by default it goes on
    with the eps of the x_0 before clipping.
    """
    x_t = x_T
    for now, then in pairwise(grid):
        x_0, _ = denoise(x_t, at(now, x_t))
        t, s = instant(now), instant(then)
        eps = eps_from_x_0(x_0, x_t, process.alpha(t), process.sigma(t))
        _, variance = q_posterior(process, x_0, x_t, t, s)
        direction = (process.sigma(s) ** 2 - eta**2 * variance).clamp(min=0).sqrt()
        x_t = process.alpha(s) * x_0 + direction * eps
        if eta > 0 and then > 0:
            x_t = x_t + eta * variance.sqrt() * noise()
        yield Step(then, x_t, x_0)


def last_of(steps: Iterator[Step]) -> Step:
    """Run a sampler to its end; return its last step. No other step stays in memory."""
    return deque(steps, maxlen=1).pop()


def at(t: float, x: Tensor) -> Tensor:
    """Return the time for every image of x: [N] on its device, int64 for an int t of the chain, else float64."""
    real = torch.float32 if x.device.type == "mps" else torch.float64  # MPS has no float64
    times = torch.full((len(x),), t, device=x.device, dtype=torch.long if isinstance(t, int) else real)
    times.instant = instant(t)  # type: ignore[attr-defined]
    return times


def instant(t: float) -> Tensor:
    """Return the time for all images, [] on the CPU: int64 for an int t of the chain, else float64.

    The process's numbers at this time are computed on the CPU. They go to a kernel of any device as an argument, so
    that no copy and no wait for the device is needed.
    """
    return torch.tensor(t, dtype=torch.long if isinstance(t, int) else torch.float64)


def instant_of(times: Tensor) -> Tensor:
    """Return the `instant` of equal times [N]. It waits for the device only if they are not from `at`."""
    known: Tensor | None = getattr(times, "instant", None)
    return times[0].cpu() if known is None else known


def pairs(grid: Sequence[float], x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield successive times (t, s) of the grid, each as [N]."""
    return ((at(t, x), at(s, x)) for t, s in pairwise(grid))
