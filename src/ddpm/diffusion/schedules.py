"""Noise schedules of variance-preserving processes, in discrete steps or in continuous time.

Time is counted as in the papers: t = 1..T are the steps of the chain and t = 0 is the image itself, so every array has
T + 1 entries and `alphas_bar[t]` is the paper's alpha_bar_t. (diffusers counts from 0: its t is ours minus 1.)
In continuous time t is any real number in 0..T. The chains of `cosine` and `sigmoid` equal the continuous process at
integer times, except at t = T, where beta is clipped below 1. The chain of `linear` converges to the continuous process
as T grows; at T = 1000 its alpha_bar differs by up to 8.1e-4.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

Curve = Callable[[Tensor], Tensor]
"""alpha_bar as a function of u = t/T in [0, 1], falling from 1."""


class ScaledTime(ABC):
    """A process that ends in noise of standard deviation 1, and whose network reads the time as the share t/T."""

    prior_std = 1.0
    """Standard deviation of x_T."""

    @property
    @abstractmethod
    def T(self) -> float:
        """The largest time."""

    @abstractmethod
    def draw(self, n: int, device: torch.device | str) -> Tensor:
        """Times for training, uniform over the process: [n]."""

    def c_noise(self, t: Tensor) -> Tensor:
        """The network's input for t: float32, t/T on a scale from 0 to 1000."""
        return t.to(torch.float32) * (1000 / self.T)


@dataclass(frozen=True, eq=False)
class ContinuousTime(ScaledTime):
    """A process at every real t in (0, T]."""

    duration: float
    """T. It only sets the unit of time."""

    @property
    def T(self) -> float:
        """The largest time."""
        return self.duration

    def draw(self, n: int, device: torch.device | str) -> Tensor:
        """float32 [n], uniform in [1e-5 T, T]: Song et al. 2021, appendix C, since at 0 the SNR is infinite."""
        return self.duration * (1e-5 + (1 - 1e-5) * torch.rand(n, device=device))


class VariancePreserving(ScaledTime):
    """alpha_t = sqrt(alpha_bar_t), sigma_t = sqrt(1 - alpha_bar_t), so that alpha^2 + sigma^2 = 1.

    q(x_t | x_0) = N(alpha_t x_0, sigma_t^2 I)                       Ho et al. 2020, Eq. 4
    """

    @abstractmethod
    def alpha_bar(self, t: Tensor) -> Tensor:
        """Return alpha_bar of the shape of t: float64, or float32 where the device has no float64."""

    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the sample in x_t: float32 of the shape of t, integer or real, in 0..T."""
        return self.alpha_bar(t).sqrt().to(torch.float32)

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise in x_t: float32 of the shape of t, integer or real, in 0..T."""
        return (1 - self.alpha_bar(t)).sqrt().to(torch.float32)

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha_t^2 / sigma_t^2: float32 of the shape of t, infinite at t = 0."""
        alpha_bar = self.alpha_bar(t)
        return (alpha_bar / (1 - alpha_bar)).to(torch.float32)


def wide(device: torch.device) -> torch.dtype:
    """Return float64, or float32 where the device has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64


@dataclass(frozen=True, eq=False)
class Schedule(VariancePreserving):
    """The chain of T steps with given betas. Arrays are float64; results are cast.

    q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I)        Ho et al. 2020, Eq. 2
    """

    betas: Tensor
    """float64 [T+1]; betas[0] = 0, the others in (0, 1); betas[T] = 1 if the terminal SNR is zero."""
    _tables: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        assert self.betas.dtype == torch.float64
        assert self.betas[0] == 0
        assert bool(((self.betas[1:] > 0) & (self.betas[1:] <= 1)).all())

    @property
    def T(self) -> int:
        """Number of steps of the forward process."""
        return len(self.betas) - 1

    @cached_property
    def alphas_bar(self) -> Tensor:
        """alpha_bar_t, the product of 1 - beta_s over s = 1..t: float64 [T+1], alphas_bar[0] = 1."""
        return torch.cumprod(1 - self.betas, dim=0)

    def alpha_bar(self, t: Tensor) -> Tensor:
        """Return alpha_bar; at real t by linear interpolation of its logarithm (Lu et al. 2022, App. D.1)."""
        table = self._table(t.device)
        if not t.is_floating_point():
            return table[t]
        before = t.floor().clamp(0, self.T - 1).to(torch.long)
        weight = t.to(table.dtype) - before
        return table[before] ** (1 - weight) * table[before + 1] ** weight  # powers, because 0 at T has no logarithm

    def draw(self, n: int, device: torch.device | str) -> Tensor:
        """int64 [n], uniform in 1..T."""
        return torch.randint(1, self.T + 1, (n,), device=device)

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            self._tables[device] = self.alphas_bar.to(wide(device)).to(device)
        return self._tables[device]


@dataclass(frozen=True, eq=False)
class ContinuousSchedule(ContinuousTime, VariancePreserving):
    """The process at every real t in (0, T], where alpha_bar is a closed function of u = t/T.

    It is the limit of the chain of that name for many steps: Song et al. 2021, Sec. 3.4 and appendix B ("VP SDE").
    """

    curve: Curve

    def alpha_bar(self, t: Tensor) -> Tensor:
        return self.curve(t.to(wide(t.device)) / self.duration)


def _vp_sde(u: Tensor) -> Tensor:
    """Song et al. 2021, Eq. 33 of the appendix: exp(-integral of beta), beta(u) linear from 0.1 to 20."""
    low, high = 0.1, 20.0
    return torch.exp(-(low * u + (high - low) * u**2 / 2))


def _cosine(u: Tensor) -> Tensor:
    """Nichol and Dhariwal 2021, Eq. 17: cos^2((u + s) / (1 + s) * pi / 2) over its value at 0, s = 0.008."""
    s = 0.008
    return torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2 / math.cos(s / (1 + s) * math.pi / 2) ** 2


def _sigmoid(u: Tensor) -> Tensor:
    """Jabri et al. 2022, Algorithm 1 (`sigmoid`, start -3, end 3, tau 1): a normalised falling sigmoid."""
    start, end, tau = -3.0, 3.0, 1.0
    v_start, v_end = torch.sigmoid(torch.tensor([start / tau, end / tau], dtype=u.dtype)).tolist()
    return (v_end - torch.sigmoid((u * (end - start) + start) / tau)) / (v_end - v_start)


# Model files contain these names: add names, but never change the meaning of one.
CURVES: dict[str, Curve] = {"linear": _vp_sde, "cosine": _cosine, "sigmoid": _sigmoid}


def _linear_betas(T: int) -> Tensor:
    """Ho et al. 2020, Sec. 4: from 1e-4 to 0.02 for T = 1000, scaled by 1000/T as in Nichol and Dhariwal's code."""
    scale = 1000 / T
    return torch.linspace(1e-4 * scale, 0.02 * scale, T, dtype=torch.float64).clamp(max=0.999)


def _betas(curve: Curve, T: int) -> Tensor:
    """Return betas_1..T of the chain on a curve, clipped below 1 so that no step destroys all signal.

    Nichol and Dhariwal 2021, Sec. 3.2: beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}, at most 0.999.
    """
    values = curve(torch.arange(T + 1, dtype=torch.float64) / T)
    return (1 - values[1:] / values[:-1]).clamp(max=0.999)


def _above_zero(curve: Curve) -> Curve:
    """Return the curve clipped above 0, because a step to alpha_bar = 0 cannot be inverted."""
    return lambda u: curve(u).clamp(min=1e-9, max=1)


# Functions T -> betas_1..T.
SCHEDULES: dict[str, Callable[[int], Tensor]] = {
    "linear": _linear_betas,
    "cosine": lambda T: _betas(_cosine, T),
    "sigmoid": lambda T: _betas(_above_zero(_sigmoid), T),
}


def shifted(alpha_bar: Tensor, factor: float) -> Tensor:
    """Return alpha_bar of the process with SNR divided by factor^2: log SNR - 2 log(factor).

    Hoogeboom et al. 2023, Sec. 3.1: factor = d/64 for images of d x d pixels and a schedule made for 64 x 64. Without
    the shift, the mean of the (d/64)^2 pixels that replace one pixel has noise of (d/64)^2 times less variance.
    """
    return alpha_bar / (alpha_bar + (1 - alpha_bar) * factor**2)


def zero_terminal_snr(alpha_bar: Tensor, *, first: float, last: float) -> Tensor:
    """Return alpha_bar with its square root shifted and scaled so that `last` becomes 0 and `first` stays.

    Lin et al. 2023, Algorithm 1. Without it, x_T in training still contains a trace of the image, which the start of
    sampling does not.
    """
    a, b = math.sqrt(first), math.sqrt(last)
    return ((alpha_bar.sqrt() - b) * a / (a - b)).clamp(min=0) ** 2


def make_schedule(name: str, T: int, *, shift: float = 1, zero_terminal: bool = False) -> Schedule:
    """Return the chain of that name with T steps; optionally shifted, then rescaled to end in pure noise."""
    schedule = Schedule(torch.cat([torch.zeros(1, dtype=torch.float64), SCHEDULES[name](T)]))
    if shift == 1 and not zero_terminal:
        return schedule
    alphas_bar = shifted(schedule.alphas_bar, shift)
    if zero_terminal:
        first, last = float(alphas_bar[1]), float(alphas_bar[-1])
        alphas_bar[1:] = zero_terminal_snr(alphas_bar[1:], first=first, last=last)
    return Schedule(torch.cat([torch.zeros(1, dtype=torch.float64), 1 - alphas_bar[1:] / alphas_bar[:-1]]))


def make_continuous_schedule(
    name: str, T: float, *, shift: float = 1, zero_terminal: bool = False
) -> ContinuousSchedule:
    """Return the process of that name in continuous time 0..T, with the same options."""
    curve = _above_zero(CURVES[name])
    last = float(shifted(curve(torch.ones((), dtype=torch.float64)), shift))

    def alpha_bar(u: Tensor) -> Tensor:
        values = shifted(curve(u), shift)
        return zero_terminal_snr(values, first=1.0, last=last) if zero_terminal else values

    return ContinuousSchedule(float(T), alpha_bar)
