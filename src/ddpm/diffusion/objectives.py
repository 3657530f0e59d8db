"""What the network predicts (eps, x_0 or v), how each becomes the others, and how the loss is weighted.

All follow from x_t = alpha x_0 + sigma eps; alpha and sigma are [N,1,1,1], everything else [N,C,H,W].
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm.diffusion.gaussian import q_sample
from ddpm.diffusion.schedules import Schedule

_Conversion = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

# Target from (x_0, eps, alpha, sigma). v: Salimans and Ho 2022, Sec. 4 and appendix D.
TARGETS: dict[str, _Conversion] = {
    "eps": lambda x_0, eps, alpha, sigma: eps,
    "x_0": lambda x_0, eps, alpha, sigma: x_0,
    "v": lambda x_0, eps, alpha, sigma: alpha * eps - sigma * x_0,
}

# x_0 from (prediction, x_t, alpha, sigma). eps: Ho et al. 2020, Eq. 15; v: x_0 = alpha x_t - sigma v.
TO_X_0: dict[str, _Conversion] = {
    "eps": lambda eps, x_t, alpha, sigma: (x_t - sigma * eps) / alpha,
    "x_0": lambda x_0, x_t, alpha, sigma: x_0,
    "v": lambda v, x_t, alpha, sigma: alpha * x_t - sigma * v,
}

# Loss weights from (snr, gamma), for a squared error in each target.
# simple: Ho et al. 2020, Eq. 14, weight 1 on the target that the network predicts.
# min_snr: Hang et al. 2023, Eq. 8, min(SNR, gamma) on the x_0 error, which is
# SNR times smaller than the eps error and SNR + 1 times smaller than the v error.
WEIGHTS: dict[str, dict[str, Callable[[Tensor, float], Tensor]]] = {
    "simple": dict.fromkeys(TARGETS, lambda snr, gamma: torch.ones_like(snr)),
    "min_snr": {
        "eps": lambda snr, gamma: snr.clamp(max=gamma) / snr,
        "x_0": lambda snr, gamma: snr.clamp(max=gamma),
        "v": lambda snr, gamma: snr.clamp(max=gamma) / (snr + 1),
    },
}


def eps_from_x_0(x_0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noise that x_t contains if its image is x_0; sigma must be above 0.  Ho et al. 2020, Eq. 9."""
    return (x_t - alpha * x_0) / sigma


@dataclass(frozen=True)
class Objective:
    """A target and a loss weight."""

    target: str
    """A key of TARGETS."""
    weight: str
    """A key of WEIGHTS."""
    min_snr_gamma: float

    def loss(
        self,
        predict: Callable[[Tensor, Tensor], Tensor],
        schedule: Schedule,
        *,
        x_0: Tensor,
        t: Tensor,
        eps: Tensor,
    ) -> Tensor:
        """Weighted squared error per image, mean over its pixels: float32 [N].

        `predict(x_t, t)` is the network; t is [N] in 1..T.  Ho et al. 2020, Algorithm 1.
        """
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        prediction = predict(q_sample(schedule, x_0, t, eps), t).to(torch.float32)
        target = TARGETS[self.target](x_0, eps, alpha, sigma)
        weight = WEIGHTS[self.weight][self.target](schedule.snr(t), self.min_snr_gamma)
        return (weight * (prediction - target) ** 2).mean(dim=(1, 2, 3))

    def x_0(self, prediction: Tensor, schedule: Schedule, *, x_t: Tensor, t: Tensor) -> Tensor:
        """The image that a prediction means."""
        return TO_X_0[self.target](prediction, x_t, schedule.alpha(t), schedule.sigma(t))
