"""One step's term of the variational bound, and a model's estimate for a step; bits per dimension (colour value)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.diffusion.gaussian import q_posterior, reverse_log_variance
from ddpm.diffusion.processes import Process
from ddpm.diffusion.sample_shape import per_sample
from ddpm.images import HIGH, LEVEL, LOW


class Estimate(NamedTuple):
    """A model's estimate from x_t: p(x_s | x_t) has the mean of q(x_s | x_t, x_0) and its own variance."""

    x_0: Tensor
    """The estimated sample, [N, C, *shape]."""
    fraction: Tensor | float = 1.0
    """Position of the log variance between log beta-tilde (0) and log beta (1), see `reverse_log_variance`."""


def gaussian_kl(mean_q: Tensor, log_var_q: Tensor, mean_p: Tensor, log_var_p: Tensor) -> Tensor:
    """Return KL(q || p) of normal distributions, per dimension, in nats."""
    ratio = (log_var_q - log_var_p).exp() + (mean_q - mean_p) ** 2 * (-log_var_p).exp()
    return 0.5 * (log_var_p - log_var_q + ratio - 1)


def discretized_gaussian_nll(x_0: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Return -log of the mass of a normal distribution within half a level of x_0, per dimension, in nats.

    The lowest level includes all mass below it, and the highest all mass above it.  Ho et al. 2020, Eq. 13.
    """
    std = (0.5 * log_var).exp()
    above = torch.special.ndtr((x_0 + LEVEL / 2 - mean) / std).masked_fill(x_0 > HIGH - LEVEL / 2, 1.0)
    below = torch.special.ndtr((x_0 - LEVEL / 2 - mean) / std).masked_fill(x_0 < LOW + LEVEL / 2, 0.0)
    return -(above - below).clamp(min=1e-12).log()


def bits(nats: Tensor) -> Tensor:
    """Convert nats per dimension [N, C, *shape] to bits/dim [N]."""
    return nats.flatten(1).mean(dim=1) / math.log(2)


def bound_term(process: Process, estimate: Estimate, *, x_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Return one term of the bound, bits/dim [N]: KL(q(x_s | x_t, x_0) || p(x_s | x_t)), or -log p(x_0 | x_t) if s = 0.

    Ho et al. 2020, Eq. 5: L_{t-1} and L_0 for s = t - 1.
    """
    mean, _ = q_posterior(process, estimate.x_0, x_t, t, s)
    true_mean, true_var = q_posterior(process, x_0, x_t, t, s)
    t, s = per_sample(t, x_t), per_sample(s, x_t)
    log_var = reverse_log_variance(process, estimate.fraction, t, s).expand_as(mean)
    kl = gaussian_kl(true_mean, true_var.clamp(min=1e-20).log(), mean, log_var)
    nll = discretized_gaussian_nll(x_0, mean, log_var)
    return bits(torch.where(s == 0, nll, kl))
