"""The negative log likelihood of images, by the variational bound and by the probability-flow ODE.

Both are for images in [-1, 1] with 256 levels, in bits per dimension (colour value of a pixel). Both are upper bounds
with a decoder from the smallest noise level of the grid to the image. They differ in log p(x_t) at that level: the
chain bounds it by one term per step, and the ODE computes it.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.diffusion.bound import bits, bound_term, gaussian_kl
from ddpm.diffusion.gaussian import q_sample
from ddpm.diffusion.processes import Process
from ddpm.diffusion.sample_shape import per_sample
from ddpm.sampling.samplers import Denoise, Noise, pairs


def prior_term(process: Process, x_0: Tensor, t: float) -> Tensor:
    """Return L_T of Ho et al. 2020, Eq. 5, for a chain from t: KL(q(x_t | x_0) || its prior), bits/dim [N]."""
    times = per_sample(torch.full((len(x_0),), t, device=x_0.device), x_0)
    mean = process.alpha(times) * x_0
    log_var, log_prior = (2 * std.log().expand_as(mean) for std in (process.sigma(times), _prior_std(process, times)))
    return bits(gaussian_kl(mean, log_var, torch.zeros_like(mean), log_prior))


def _prior_std(process: Process, t: Tensor) -> Tensor:
    """Return the standard deviation of the prior of x_t at the noisy end, where t is T or nearly T."""
    return process.prior_std * process.sigma(t) / process.sigma(torch.full_like(t, process.T))


class Bound(NamedTuple):
    """The variational bound of every image and its terms; bits/dim."""

    total: Tensor
    """[N]: the prior plus the sum over steps."""
    prior: Tensor
    """[N]: L_T, or the same term at the grid's first time."""
    steps: Tensor
    """[N,steps], in the order of the grid: ..., L_1, and last the decoder's L_0."""


def variational_bound(denoise: Denoise, process: Process, x_0: Tensor, grid: Sequence[float], noise: Noise) -> Bound:
    """Return an upper bound of -log2 p(x_0), on average over the noise: Ho et al. 2020, Eq. 5.

    `grid` falls from T, or nearly T, to 0; the bound is that of the chain that visits these times. The full chain is
    T, T-1, ..., 0.
    """
    terms = []
    for t, s in pairs(grid, x_0):
        if t.is_floating_point():  # real times in the precision of training
            t, s = t.to(torch.float32), s.to(torch.float32) if s.is_floating_point() else s
        x_t = q_sample(process, x_0, t, noise())
        terms.append(bound_term(process, denoise(x_t, t), x_0=x_0, x_t=x_t, t=t, s=s))
    prior, steps = prior_term(process, x_0, grid[0]), torch.stack(terms, dim=1)
    return Bound(prior + steps.sum(dim=1), prior, steps)


def log_likelihood(
    denoise: Denoise, process: Process, x: Tensor, grid: list[float], probes: Callable[[], Tensor] | None
) -> Tensor:
    """Return log p(x) in nats, [N], of the density that the probability-flow ODE transports from noise to images.

    Song et al. 2021, Eq. 39 and appendix D.2. Every process is a rotation: with tan(phi) = sigma/alpha,
    z = x_t / sqrt(alpha^2 + sigma^2) = cos(phi) x_0 + sin(phi) eps moves by dz/dphi = v (Salimans and Ho 2022,
    appendix D), and its log density falls by the trace of dv/dz. The ODE is solved by Heun's method along the grid,
    whose times fall and end above 0. x is x_t at the smallest time, so this is the density of an image with that noise
    and not of the image itself (see `ode_bound`). It is exact except for the errors of the steps and of the trace.
    `probes()` gives random signs [N, C, *shape] for Hutchinson's estimate of the trace; None computes it exactly, at
    one backward pass per dimension. A denoiser that clips is another model, with another density.
    """
    times = [torch.full((len(x),), t, device=x.device, dtype=torch.float32) for t in reversed(grid)]
    shaped = [per_sample(t, x) for t in times]
    alphas, sigmas = [process.alpha(t) for t in shaped], [process.sigma(t) for t in shaped]
    scales = [torch.hypot(alpha, sigma) for alpha, sigma in zip(alphas, sigmas, strict=True)]
    phis = [torch.atan2(sigma, alpha) for alpha, sigma in zip(alphas, sigmas, strict=True)]

    def flow(z: Tensor, i: int, signs: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return v [N, C, *shape] and the trace of its derivative [N] at time i."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            v = (phis[i].cos() * z - denoise(scales[i] * z, times[i]).x_0) / phis[i].sin()
            trace = _trace(v, z, signs)
        return v.detach(), trace

    z, grown = x / scales[0], torch.zeros(len(x), device=x.device)
    for i, j in pairwise(range(len(times))):
        signs = None if probes is None else probes()
        step = phis[j] - phis[i]
        v, trace = flow(z, i, signs)
        v_ahead, trace_ahead = flow(z + step * v, j, signs)
        z = z + step * (v + v_ahead) / 2
        grown = grown + step.flatten() * (trace + trace_ahead) / 2

    prior = torch.distributions.Normal(0.0, _prior_std(process, shaped[-1]) / scales[-1], validate_args=False)
    return (prior.log_prob(z) - scales[0].log()).flatten(1).sum(dim=1) + grown


def ode_bound(
    denoise: Denoise,
    process: Process,
    x_0: Tensor,
    grid: list[float],
    noise: Noise,
    probes: Callable[[], Tensor] | None,
) -> Tensor:
    """Return an upper bound of -log2 P(x_0) per dimension, on average over the noise: bits/dim [N].

    At the grid's last time t: -log P(x_0) <= E_q(x_t | x_0) [-log P(x_0 | x_t) + log q(x_t | x_0) - log p(x_t)], by
    Jensen's inequality; this is variational dequantisation (Ho et al. 2019, Eq. 10) with the process's own noise. The
    decoder P(x_0 | x_t) is that of `variational_bound`, and `log_likelihood` is log p(x_t). With the same decoder and
    an exact denoiser it is on average below the bound of a chain. Two things make it loose: the decoder, and a noise at
    t far below the distance of two grey levels, which leaves x_t in peaks that a smooth density does not have. Bounds
    of different processes compare only from about the same noise level.
    """
    t = torch.full((len(x_0),), grid[-1], device=x_0.device)
    x_t = q_sample(process, x_0, t, noise())
    with torch.no_grad():
        decoder = bound_term(process, denoise(x_t, t), x_0=x_0, x_t=x_t, t=t, s=torch.zeros_like(t))
    shaped = per_sample(t, x_0)
    q = torch.distributions.Normal(
        process.alpha(shaped) * x_0, process.sigma(shaped), validate_args=False
    )  # a check would wait for the device
    log_q = q.log_prob(x_t).flatten(1).sum(dim=1)
    log_p = log_likelihood(denoise, process, x_t, grid, probes)
    return decoder + (log_q - log_p) / (x_0[0].numel() * math.log(2))


def _trace(v: Tensor, z: Tensor, signs: Tensor | None) -> Tensor:
    """Return the trace of J = dv/dz per image, exactly or as signs^T J signs (Hutchinson 1990): [N]."""
    if signs is not None:
        (vjp,) = torch.autograd.grad(v, z, signs)
        return (vjp * signs).flatten(1).sum(dim=1)
    trace = torch.zeros(len(z), device=z.device)
    for k in range(z[0].numel()):
        one = torch.zeros_like(z)
        one.flatten(1)[:, k] = 1
        (vjp,) = torch.autograd.grad(v, z, one, retain_graph=True)
        trace = trace + vjp.flatten(1)[:, k]
    return trace
