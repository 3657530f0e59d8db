"""Forward processes of the form x_t = alpha_t x_0 + sigma_t eps for t in 0..T.

Variance-preserving ones, in steps or in continuous time, are in `schedules`; the variance-exploding one and the linear
path of flow matching are here.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddpm.diffusion.schedules import ContinuousTime, make_continuous_schedule, make_schedule, wide
from ddpm.diffusion.settings import Schedule


class Process(Protocol):
    """The interface of a forward process for samplers, objectives and likelihoods.

    Its functions of t, in 0..T, work element by element: t may have any shape, and the result has the same shape. Shape
    t by `per_sample` for results that broadcast against samples.
    """

    @property
    def T(self) -> float:
        """The largest time; an integer where time is discrete."""

    @property
    def prior_std(self) -> float:
        """Standard deviation of x_T, from which sampling starts."""

    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the sample in x_t: float32."""

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise in x_t: float32."""

    def snr(self, t: Tensor) -> Tensor:
        """alpha_t^2 / sigma_t^2: float32."""

    def c_noise(self, t: Tensor) -> Tensor:
        """The network's input for t: float32."""

    def draw(self, n: int, device: torch.device | str) -> Tensor:
        """Times for training, uniform over the process: [n]."""


@dataclass(frozen=True)
class VarianceExploding:
    """alpha = 1 and sigma_t = t: the image stays and noise is added to it.

    Song and Ermon 2019 and Song et al. 2021, appendix B ("VE SDE"), with sigma as the time, as in Karras et al.
    2022, Tab. 1. A model's times lie in [sigma_min, sigma_max]; t = 0 is the image itself.
    """

    sigma_min: float
    sigma_max: float

    @property
    def T(self) -> float:
        """The largest time, which is the largest sigma."""
        return self.sigma_max

    @property
    def prior_std(self) -> float:
        """Standard deviation of x_T: sigma_max, beside which the image is negligible."""
        return self.sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        """1: float32."""
        return torch.ones_like(t, dtype=torch.float32)

    def sigma(self, t: Tensor) -> Tensor:
        """t: float32."""
        return t.to(torch.float32)

    def snr(self, t: Tensor) -> Tensor:
        """1/t^2: float32, infinite at t = 0."""
        return self.sigma(t) ** -2

    def c_noise(self, t: Tensor) -> Tensor:
        """ln(sigma)/4 (Karras et al. 2022, Tab. 1), in thousandths: the scale of the other processes."""
        return 250 * t.to(torch.float32).clamp(min=self.sigma_min).log()

    def draw(self, n: int, device: torch.device | str) -> Tensor:
        """float32 [n], log-uniform in [sigma_min, sigma_max]: Song et al. 2021, where log sigma is linear in time."""
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return (low + (high - low) * torch.rand(n, device=device)).exp()


@dataclass(frozen=True)
class LinearPath(ContinuousTime):
    """alpha = 1 - u and sigma = u: the straight line from the image at u = 0 to noise at u = 1.

    Flow matching with the optimal-transport path (Lipman et al. 2023, Eq. 22) and rectified flow (Liu et al. 2023,
    Sec. 2.1), whose time runs from noise to image. u is t/T, or with a shift, which divides the SNR by its square,
    shift t/T / (1 + (shift - 1) t/T): Esser et al. 2024, Eq. 23.
    """

    shift: float = 1.0

    def _share(self, t: Tensor) -> Tensor:
        """Return t/T, in float64 where the device has it."""
        return t.to(wide(t.device)) / self.duration

    def alpha(self, t: Tensor) -> Tensor:
        """1 - u: float32. Computed as (1 - t/T) / (1 + (shift - 1) t/T), which is exactly 0 at T and never below 0."""
        s = self._share(t)
        return ((1 - s) / (1 + (self.shift - 1) * s)).to(torch.float32)

    def sigma(self, t: Tensor) -> Tensor:
        """u: float32."""
        s = self._share(t)
        return (self.shift * s / (1 + (self.shift - 1) * s)).to(torch.float32)

    def snr(self, t: Tensor) -> Tensor:
        """(1 - u)^2 / u^2: float32, infinite at t = 0 and 0 at T."""
        s = self._share(t)
        return (((1 - s) / (self.shift * s)) ** 2).to(torch.float32)


def make_process(schedule: Schedule) -> Process:
    """Return the process that section `schedule` of params.yaml describes."""
    if schedule.name == "variance_exploding":
        return VarianceExploding(schedule.sigma_min, schedule.sigma_max)
    if schedule.name == "linear_path":
        return LinearPath(float(schedule.T), schedule.shift)
    make = {"discrete": make_schedule, "continuous": make_continuous_schedule}[schedule.time]
    return make(schedule.name, schedule.T, shift=schedule.shift, zero_terminal=schedule.zero_terminal_snr)
