"""Solvers of the probability-flow ODE that are faster than DDIM, and of the SDE with the same marginals.

In x-bar = x / alpha and sigma-bar = sigma / alpha every process is dx-bar / dsigma-bar = (x-bar - x_0) / sigma-bar
(Karras et al. 2022, Eq. 1 with s = 1); in lambda = log(alpha / sigma) it is an exponential integral of x_0
(Lu et al. 2022b, Eq. 9). The denoiser's x_0 is a function of lambda along the path, and the solvers differ in how
they interpolate it. If a grid ends in 0, all end with a step of order 1, because lambda is infinite there.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.diffusion.processes import Process
from ddpm.sampling.grids import MAX_NOISE, times_of
from ddpm.sampling.samplers import Denoise, Noise, Step, at


class Level(NamedTuple):
    """One time of a grid, as plain numbers."""

    t: float
    alpha: float
    sigma: float

    @property
    def lam(self) -> float:
        """lambda = log(alpha / sigma): infinite at the image, minus infinity where alpha is 0."""
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf


def levels(process: Process, grid: Sequence[float]) -> list[Level]:
    """Return the process's alpha and sigma at every time of the grid."""
    t = torch.tensor(grid, dtype=torch.float64)
    alphas, sigmas = (values.tolist() for values in (process.alpha(t), process.sigma(t)))
    return [Level(*each) for each in zip(grid, alphas, sigmas, strict=True)]


def heun(
    denoise: Denoise,
    process: Process,
    x_T: Tensor,
    grid: Sequence[float],
    noise: Noise,
    *,
    churn: float,
    churn_range: tuple[float, float | None],
    churn_noise: float,
) -> Iterator[Step]:
    """Heun's method, order 2, with churn.  Karras et al. 2022, Algorithm 2.  Two evaluations per step, one in the last.

    `churn` is S_churn, `churn_range` is [S_min, S_max] in sigma-bar (None: no upper end) and `churn_noise` is S_noise.
    Churn never goes above the noise level of the grid's first time, because the process ends at T. Above MAX_NOISE x_t
    is almost pure noise and a step in sigma-bar is too long for a second slope, so an Euler step is taken.

    diffusers' EDM Euler and HeunDiscreteScheduler agree in x-bar with churn 0; they use Karras's sigmas in place of a
    grid of times, and their Heun has no default churn range for S_noise.
    """
    nodes, x = levels(process, grid), x_T
    churned = _churned(process, nodes, gamma=min(churn / (len(grid) - 1), math.sqrt(2) - 1), churn_range=churn_range)
    for t, s in pairwise(nodes):
        if t in churned:
            there, added = churned[t]
            t, x = there, there.alpha * (x / t.alpha + added * churn_noise * noise())
        x_0, _ = denoise(x, at(t.t, x))
        if t.sigma > MAX_NOISE * t.alpha or s.sigma == 0:
            x = first_order(x, x_0, t, s)
        else:
            x_bar, sigma_bar, sigma_bar_s = x / t.alpha, t.sigma / t.alpha, s.sigma / s.alpha
            d = (x_bar - x_0) / sigma_bar
            euler = x_bar + (sigma_bar_s - sigma_bar) * d
            d_s = (euler - denoise(s.alpha * euler, at(s.t, x)).x_0) / sigma_bar_s
            x = s.alpha * (x_bar + (sigma_bar_s - sigma_bar) * (d + d_s) / 2)
        yield Step(s.t, x, x_0)


def dpm_solver_pp(
    denoise: Denoise,
    process: Process,
    x_T: Tensor,
    grid: Sequence[float],
    noise: Noise,
    *,
    order: int,
    stochastic: bool = False,
) -> Iterator[Step]:
    """DPM-Solver++ multistep of order 1 (DDIM), 2 ("2M") or 3 ("3M").  Lu et al. 2022b, Algorithm 2 and appendix B.

    `stochastic` solves the reverse SDE instead (2M SDE; order at most 2: Lu et al. 2022b, Eq. 18 and appendix).
    The first steps are of lower order because past estimates are missing. The last steps are of
    lower order if the grid ends in 0.

    diffusers' DPMSolverMultistepScheduler ("dpmsolver++" and "sde-dpmsolver++", midpoint, final sigma zero) agrees
    for order 2. Its 3M ("dpmsolver++") does not: it uses half of our second difference, so it converges with order 2
    only. We end with a step of order 2 and one of order 1; it does so only with fewer than 15 steps, and with 15 or
    more its last step but one is of order 3.
    """
    nodes, x, past = levels(process, grid), x_T, list[tuple[float, Tensor]]()
    for k, (t, s) in enumerate(pairwise(nodes)):
        x_0, _ = denoise(x, at(t.t, x))
        past = [(t.lam, x_0), *past][: _affordable(order, nodes, k)]
        x = _sde_step(x, past, t, s, noise) if stochastic else _multistep(x, past, t, s)
        yield Step(s.t, x, x_0)


def _multistep(x: Tensor, past: list[tuple[float, Tensor]], t: Level, s: Level) -> Tensor:
    """Step from t to s by interpolating past estimates (lambda, x_0), newest first; their number is the order."""
    h = s.lam - t.lam
    slope, curvature = _differences(past, h)
    x_s = first_order(x, past[0][1], t, s)
    if slope is not None and curvature is not None:
        x_s = x_s + s.alpha * (math.expm1(-h) / h + 1) * slope
        return x_s - s.alpha * ((math.expm1(-h) + h) / h**2 - 0.5) * curvature
    return x_s if slope is None else x_s - s.alpha * math.expm1(-h) / 2 * slope


def _sde_step(x: Tensor, past: list[tuple[float, Tensor]], t: Level, s: Level, noise: Noise) -> Tensor:
    h = s.lam - t.lam
    slope, _ = _differences(past, h)
    x_0 = past[0][1] if slope is None else past[0][1] + slope / 2
    x_s = s.sigma / t.sigma * math.exp(-h) * x - s.alpha * math.expm1(-2 * h) * x_0
    return x_s if s.sigma == 0 else x_s + s.sigma * math.sqrt(-math.expm1(-2 * h)) * noise()


def _differences(past: list[tuple[float, Tensor]], h: float) -> tuple[Tensor | None, Tensor | None]:
    """Return h x_0' and h^2 x_0'' in lambda at the newest estimate, by Newton's differences; None if too few exist."""
    if len(past) == 1:
        return None, None
    (lam_0, m_0), (lam_1, m_1) = past[:2]
    r_0 = (lam_0 - lam_1) / h
    slope = (m_0 - m_1) / r_0
    if len(past) == 2:
        return slope, None
    lam_2, m_2 = past[2]
    r_1 = (lam_1 - lam_2) / h
    bend = slope - (m_1 - m_2) / r_1
    return slope + r_0 / (r_0 + r_1) * bend, 2 * bend / (r_0 + r_1)


def unipc(
    denoise: Denoise, process: Process, x_T: Tensor, grid: Sequence[float], noise: Noise, *, order: int
) -> Iterator[Step]:
    """UniPC with B_2(h) = e^h - 1, in x_0.  Zhao et al. 2023, Algorithm 5 to 8 and appendix (data prediction).

    UniP of the given order is followed by UniC without further evaluations: UniC repeats the step with the x_0 found at
    its end, which raises the order by one. The last step is not corrected, because nothing is evaluated at its end.

    diffusers' UniPCMultistepScheduler ("bh2", `predict_x0`, final sigma zero) agrees. Like it, we use 1/2 as the
    solution of the linear system if UniP is of order 2 or UniC of order 1.
    """
    nodes, x, past = levels(process, grid), x_T, list[tuple[float, Tensor]]()
    redo: Callable[[Tensor], Tensor] | None = None
    for k, (t, s) in enumerate(pairwise(nodes)):
        x_0, _ = denoise(x, at(t.t, x))
        if redo is not None:
            x = redo(x_0)
        past = [(t.lam, x_0), *past][: _affordable(order, nodes, k)]
        redo = partial(_unified, x, past, t, s) if t.alpha > 0 else None
        x = _unified(x, past, t, s)
        yield Step(s.t, x, x_0)


def _unified(x: Tensor, past: list[tuple[float, Tensor]], t: Level, s: Level, end: Tensor | None = None) -> Tensor:
    """Step by UniP, Eq. 12 of Zhao et al. 2023, or with the x_0 at s (`end`) by UniC, Eq. 9."""
    h = s.lam - t.lam
    (lam_0, m_0), earlier = past[0], past[1:]
    x_s = first_order(x, m_0, t, s)
    nodes = [((lam - lam_0) / h, m) for lam, m in earlier if math.isfinite(lam)]
    if end is not None:
        nodes.append((1.0, end))
    for (r, m), a in zip(nodes, _weights([r for r, _ in nodes], h), strict=True):
        x_s = x_s - s.alpha * math.expm1(-h) * a / r * (m - m_0)
    return x_s


def _weights(r: list[float], h: float) -> list[float]:
    """Solve R a = phi / B for a: Zhao et al. 2023, Theorem 3.1 with B_2."""
    if len(r) < 2:
        return [0.5] * len(r)
    phi, right = math.expm1(-h) / -h - 1, []
    for k in range(1, len(r) + 1):
        right.append(phi * math.factorial(k) / math.expm1(-h))
        phi = phi / -h - 1 / math.factorial(k + 1)
    left = torch.tensor([[each**k for each in r] for k in range(len(r))], dtype=torch.float64)
    return torch.linalg.solve(left, torch.tensor(right, dtype=torch.float64)).tolist()


def first_order(x: Tensor, x_0: Tensor, t: Level, s: Level) -> Tensor:
    """Take a DDIM step from t to s: exact if x_0 does not change on the way.  Lu et al. 2022b, Eq. 9 with k = 1."""
    keep = s.sigma / t.sigma
    return keep * x + (s.alpha - keep * t.alpha) * x_0


def _affordable(order: int, nodes: list[Level], k: int) -> int:
    """Return the order of step k: limited by the number of past estimates, and falling to 1 if the grid ends in 0."""
    left = len(nodes) - 1 - k
    return min(order, k + 1, left) if nodes[-1].sigma == 0 else min(order, k + 1)


def _churned(
    process: Process, nodes: list[Level], *, gamma: float, churn_range: tuple[float, float | None]
) -> dict[Level, tuple[Level, float]]:
    """Return the level to which each churned one is raised, and the sigma-bar that is added for it.

    sigma-bar grows by the factor 1 + gamma, within the churn range.  Karras et al. 2022, Alg. 2, lines 4 to 6.
    """
    low, high = churn_range[0], math.inf if churn_range[1] is None else churn_range[1]
    highest = nodes[0].sigma / nodes[0].alpha if nodes[0].alpha > 0 else math.inf
    seen = [t for t in nodes[:-1] if gamma > 0 and t.alpha > 0 and low <= t.sigma / t.alpha <= high]
    ratios = [min((1 + gamma) * t.sigma / t.alpha, highest) for t in seen]
    added = [math.sqrt(max(ratio**2 - (t.sigma / t.alpha) ** 2, 0.0)) for t, ratio in zip(seen, ratios, strict=True)]
    raised = zip(levels(process, times_of(process, ratios)), added, strict=True)
    return dict(zip(seen, raised, strict=True))
