"""The network's target, the conversion of its output to an image, and the weight of the loss over noise levels.

Every target is one row of one table. With F the network,

    x_0 = c_skip x_t + c_out F(c_in x_t, c_noise)                    Karras et al. 2022, Eq. 7

and every loss is a weight on the same error |x_0_hat - x_0|^2. Samples are [N, C, *shape]; functions of time have the
shape of t.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.diffusion.bound import Estimate, bound_term
from ddpm.diffusion.gaussian import q_sample
from ddpm.diffusion.processes import Process
from ddpm.diffusion.sample_shape import per_sample, within_sample
from ddpm.diffusion.settings import Objective, Target, Weight
from ddpm.images import HIGH, LOW, clipped

Network = Callable[[Tensor, Tensor], Tensor]
"""(c_in x_t [N, C, *shape], c_noise [N]) -> F [N, C, *shape], or [N, 2C, *shape] where the variance is learned."""


class Preconditioning(NamedTuple):
    """The factors of the formula above, each of the shape of t. c_noise belongs to the process."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor


def _eps(alpha: Tensor, sigma: Tensor, _: float) -> Preconditioning:
    """Predict the noise: x_0 = (x_t - sigma eps) / alpha.  Ho et al. 2020, Eq. 15."""
    return Preconditioning(1 / alpha, -sigma / alpha, _unit(alpha, sigma))


def _x_0(alpha: Tensor, sigma: Tensor, _: float) -> Preconditioning:
    """Predict the image itself."""
    return Preconditioning(torch.zeros_like(alpha), torch.ones_like(alpha), _unit(alpha, sigma))


def _v(alpha: Tensor, sigma: Tensor, _: float) -> Preconditioning:
    """Predict v = alpha eps - sigma x_0, so x_0 = alpha x_t - sigma v: Salimans and Ho 2022, Sec. 4 and appendix D.

    Their process is variance-preserving; for other processes this is their v of x_t / sqrt(alpha^2 + sigma^2).
    """
    unit = _unit(alpha, sigma)
    return Preconditioning(alpha * unit**2, -sigma * unit, unit)


def _edm(alpha: Tensor, sigma: Tensor, sigma_data: float) -> Preconditioning:
    """Give inputs and targets unit variance for images of variance sigma_data^2: Karras et al. 2022, Tab. 1.

    Their process has alpha = 1; for other processes this is theirs of x_t / alpha. With sigma_data = 1 it is -v.
    """
    c_in = _unit(alpha * sigma_data, sigma)
    return Preconditioning(alpha * (sigma_data * c_in) ** 2, sigma * sigma_data * c_in, c_in)


def _velocity(alpha: Tensor, sigma: Tensor, _: float) -> Preconditioning:
    """Predict the velocity eps - x_0 of the linear path: x_0 = (x_t - sigma (eps - x_0)) / (alpha + sigma).

    Lipman et al. 2023, Eq. 23, on whose path alpha + sigma is 1; for other processes this is theirs of
    x_t / (alpha + sigma). Weight simple is then flow matching.
    """
    total = alpha + sigma
    return Preconditioning(1 / total, -sigma / total, _unit(alpha, sigma))


def _unit(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return 1 over the standard deviation of x_t; it is 1 in a variance-preserving process (up to rounding)."""
    return (alpha**2 + sigma**2).rsqrt()


# Model files contain these names: never change the meaning of one.
TARGETS: dict[Target, Callable[[Tensor, Tensor, float], Preconditioning]] = {
    "eps": _eps,
    "x_0": _x_0,
    "v": _v,
    "edm": _edm,
    "velocity": _velocity,
}


def eps_from_x_0(x_0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the noise in x_t if its image is x_0; sigma must be above 0.  Ho et al. 2020, Eq. 9."""
    return (x_t - alpha * x_0) / sigma


def score_from_x_0(x_0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return grad log q(x_t) if E[x_0 | x_t] is x_0: Tweedie's formula, -eps / sigma.  Song et al. 2021, Sec. 3."""
    return -eps_from_x_0(x_0, x_t, alpha, sigma) / sigma


def estimate(objective: Objective, network: Network, process: Process, x_t: Tensor, t: Tensor) -> Estimate:
    """Return the network's estimate of the image in x_t and of the variance of the step towards it; float32."""
    return _clipped_if_bounded(objective, _free_estimate(objective, network, process, x_t, t))


def _clipped_if_bounded(objective: Objective, estimate: Estimate) -> Estimate:
    """Clip the estimate to the range of images, [-1, 1], if the objective is bounded."""
    return estimate._replace(x_0=clipped(estimate.x_0)) if objective.bounded else estimate


def _free_estimate(objective: Objective, network: Network, process: Process, x_t: Tensor, t: Tensor) -> Estimate:
    """Return the estimate before clipping."""
    c_skip, c_out, c_in = preconditioning(objective, process, per_sample(t, x_t))
    output = network(c_in * x_t, process.c_noise(t)).to(torch.float32)
    if not objective.learned_variance:
        return Estimate(c_skip * x_t + c_out * output)
    prediction, position = output.chunk(2, dim=1)
    return Estimate(c_skip * x_t + c_out * prediction, (position + 1) / 2)


def loss(objective: Objective, network: Network, process: Process, *, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Return the loss per image, the mean over its pixels: float32 [N].  Ho et al. 2020, Algorithm 1.

    With a learned variance it is L_simple + lambda L_vlb (Nichol and Dhariwal 2021, Eq. 16). L_vlb = T L_t is in
    bits/dim. Its gradient does not reach the mean, so that it trains the variance alone.
    """
    x_t = q_sample(process, x_0, t, eps)
    free = _free_estimate(objective, network, process, x_t, t)
    weight = loss_weights(objective, process, per_sample(t, x_0))
    weighted = (weight * _error(objective, free.x_0, x_0) ** 2).mean(dim=within_sample(x_0))
    if not objective.learned_variance:
        return weighted
    fixed_mean = _clipped_if_bounded(objective, Estimate(free.x_0.detach(), free.fraction))
    bound = bound_term(process, fixed_mean, x_0=x_0, x_t=x_t, t=t, s=t - 1)
    return weighted + objective.vlb_weight * process.T * bound


def _error(objective: Objective, x_0_hat: Tensor, x_0: Tensor) -> Tensor:
    """Return x_0_hat - x_0; if the objective is bounded, 0 for x_0_hat beyond the end of the range where x_0 lies.

    There clipping makes the estimate exact. The squared error stays convex in x_0_hat, and its minimum, clipped,
    is still E[x_0 | x_t]: inside the range the error is unchanged, and the minimum lies beyond it only if x_0 is
    certain.
    """
    error = x_0_hat - x_0
    if not objective.bounded:
        return error
    exact = ((x_0 <= LOW) & (error < 0)) | ((x_0 >= HIGH) & (error > 0))
    return error.masked_fill(exact, 0)


def preconditioning(objective: Objective, process: Process, t: Tensor) -> Preconditioning:
    """Return the target's row of the table at t."""
    return TARGETS[objective.target](process.alpha(t), process.sigma(t), objective.sigma_data)


def loss_weights(objective: Objective, process: Process, t: Tensor) -> Tensor:
    """Return the weight of the squared error of x_0, of the shape of t."""
    return WEIGHTS[objective.weight](objective, process, t)


# The weight of |x_0_hat - x_0|^2 for every name. The squared error of eps is SNR times
# that, and the squared error of the score SNR/sigma^2 times.
WEIGHTS: dict[Weight, Callable[[Objective, Process, Tensor], Tensor]] = {
    # Weight 1 on the error of F itself, whatever F predicts: for eps the L_simple of Ho et al. 2020, Eq. 14.
    "simple": lambda o, process, t: preconditioning(o, process, t).c_out ** -2,
    # Weight 1 on the error of eps, also Ho's, whatever F predicts: Salimans and Ho 2022, Sec. 4.
    "snr": lambda o, process, t: process.snr(t),
    # Hang et al. 2023, Eq. 8.
    "min_snr": lambda o, process, t: process.snr(t).clamp(max=o.min_snr_gamma),
    # Choi et al. 2022, Eq. 8 with k = 1: 1/(k + SNR)^gamma on the error of eps.
    "p2": lambda o, process, t: process.snr(t) * (1 + process.snr(t)) ** -o.p2_gamma,
    # Flow matching (Lipman et al. 2023, Eq. 23): weight 1 on the error of the velocity eps - x_0 of the linear path
    # x_s = (1 - s) x_0 + s eps, whatever F predicts. At the s of the same SNR, x_0 = x_s - s (eps - x_0), so an error
    # of x_0 is s times that of the velocity, and 1/s = 1 + alpha/sigma.
    "flow": lambda o, process, t: (1 + process.snr(t).sqrt()) ** 2,
    # Karras et al. 2022, Tab. 1: (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 with alpha = 1.
    "edm": lambda o, process, t: process.snr(t) + o.sigma_data**-2,
}
