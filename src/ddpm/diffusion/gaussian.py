"""The forward process and its posterior, Gaussian in closed form, for any two times s < t."""

import torch
from torch import Tensor

from ddpm.diffusion.processes import Process
from ddpm.diffusion.sample_shape import per_sample


def q_sample(process: Process, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Return x_t ~ q(x_t | x_0) from standard normal eps: [N, C, *shape] for t [N] or []. Ho et al. 2020, Eq. 4."""
    t = per_sample(t, eps)
    return process.alpha(t) * x_0 + process.sigma(t) * eps


def q_posterior(process: Process, x_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean [N, C, *shape] and variance [N, 1, ..., 1] of q(x_s | x_t, x_0) for times 0 <= s < t, [N].

    Times [] are those of all samples, and give a variance [].

    With s = t - 1 these are mu-tilde_t and beta-tilde_t of Ho et al. 2020, Eq. 6 and 7; for other s they are the
    same formulas for the chain that only visits s and t (Kingma et al. 2021, Eq. 26 to 28 of the appendix).
    """
    t, s = per_sample(t, x_t), per_sample(s, x_t)
    alpha_s, sigma_s, sigma_t = process.alpha(s), process.sigma(s), process.sigma(t)
    alpha_ts, var_ts = transition(process, t, s)
    mean = alpha_ts * (sigma_s / sigma_t) ** 2 * x_t + alpha_s * var_ts / sigma_t**2 * x_0
    return mean, var_ts * (sigma_s / sigma_t) ** 2


def transition(process: Process, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Return factor and variance of q(x_t | x_s) = N(alpha_{t|s} x_s, sigma_{t|s}^2 I), of the shape of t and s.

    With s = t - 1 they are sqrt(1 - beta_t) and beta_t.  Kingma et al. 2021, Eq. 22 and 23 of the appendix.
    """
    alpha_ts = process.alpha(t) / process.alpha(s)
    return alpha_ts, process.sigma(t) ** 2 - alpha_ts**2 * process.sigma(s) ** 2


def reverse_log_variance(process: Process, fraction: Tensor | float, t: Tensor, s: Tensor) -> Tensor:
    """Return the log variance of p(x_s | x_t): fraction log beta + (1 - fraction) log beta-tilde.

    t and s have one shape. Nichol and Dhariwal 2021, Eq. 15. A fraction of 0 is "fixed small", 1 is "fixed large"
    (Ho et al. 2020, Sec. 3.2). A network that learned the variance returns one fraction per value,
    [N, C, *shape]; then t and s are [N, 1, ..., 1]. At s = 0 beta-tilde is 0, so beta-tilde of the step from t + 1
    to t replaces it, as in their published code.
    """
    beta = transition(process, t, s)[1]
    small = beta * (process.sigma(s) / process.sigma(t)) ** 2
    later = (t + 1).clamp(max=process.T)
    beyond = transition(process, later, t)[1] * (process.sigma(t) / process.sigma(later)) ** 2
    beta_tilde = torch.where(s == 0, torch.minimum(beyond, beta), small)
    low, high = (variance.clamp(min=1e-20).log() for variance in (beta_tilde, beta))
    return fraction * high + (1 - fraction) * low
