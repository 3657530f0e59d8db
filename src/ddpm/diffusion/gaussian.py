"""The forward process and its posterior: Gaussian in closed form, for any two times s < t."""

from torch import Tensor

from ddpm.diffusion.schedules import Schedule


def q_sample(schedule: Schedule, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """x_t ~ q(x_t | x_0) from standard normal eps: [N,C,H,W] for t [N].  Ho et al. 2020, Eq. 4."""
    return schedule.alpha(t) * x_0 + schedule.sigma(t) * eps


def q_posterior(schedule: Schedule, x_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [N,C,H,W] and variance [N,1,1,1] of q(x_s | x_t, x_0) for 0 <= s < t.

    With s = t - 1 these are mu-tilde_t and beta-tilde_t of Ho et al. 2020, Eq. 6 and 7; for other s they are the
    same formulas of the chain that only visits s and t (Kingma et al. 2021, Eq. 26 to 28 of the appendix).
    """
    alpha_s, sigma_s, sigma_t = schedule.alpha(s), schedule.sigma(s), schedule.sigma(t)
    alpha_ts, var_ts = transition(schedule, t, s)
    mean = alpha_ts * (sigma_s / sigma_t) ** 2 * x_t + alpha_s * var_ts / sigma_t**2 * x_0
    return mean, var_ts * (sigma_s / sigma_t) ** 2


def transition(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and variance of q(x_t | x_s) = N(alpha_{t|s} x_s, sigma_{t|s}^2 I): [N,1,1,1] each.

    With s = t - 1 they are sqrt(1 - beta_t) and beta_t.  Kingma et al. 2021, Eq. 22 and 23 of the appendix.
    """
    alpha_ts = schedule.alpha(t) / schedule.alpha(s)
    return alpha_ts, schedule.sigma(t) ** 2 - alpha_ts**2 * schedule.sigma(s) ** 2
