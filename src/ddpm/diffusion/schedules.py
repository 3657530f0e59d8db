"""Noise schedules: how fast the forward process q turns an image into noise.

Time is the papers': t = 1..T are the steps of the chain and t = 0 is the image itself, so every array has
T + 1 entries and `alphas_bar[t]` is the paper's alpha_bar_t. (diffusers counts from 0: its t is ours minus 1.)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Schedule:
    """A variance-preserving forward process, from its betas; arrays are float64 and cast when used.

    q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I)        Ho et al. 2020, Eq. 2
    q(x_t | x_0)     = N(alpha_t x_0, sigma_t^2 I)                   Ho et al. 2020, Eq. 4
    with alpha_t = sqrt(alpha_bar_t) and sigma_t = sqrt(1 - alpha_bar_t).
    """

    betas: Tensor
    """float64 [T+1]; betas[0] = 0, the others in (0, 1)."""
    _tables: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        assert self.betas.dtype == torch.float64
        assert self.betas[0] == 0
        assert bool(((self.betas[1:] > 0) & (self.betas[1:] < 1)).all())

    @property
    def T(self) -> int:
        """Number of steps of the forward process."""
        return len(self.betas) - 1

    @cached_property
    def alphas_bar(self) -> Tensor:
        """alpha_bar_t, the product of 1 - beta_s over s = 1..t: float64 [T+1], alphas_bar[0] = 1."""
        return torch.cumprod(1 - self.betas, dim=0)

    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the image in x_t: float32 [N,1,1,1] for t [N], integer or real, in 0..T."""
        return self._at("alpha", t)

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise in x_t: float32 [N,1,1,1] for t [N], integer or real, in 0..T."""
        return self._at("sigma", t)

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha_t^2 / sigma_t^2: float32 [N,1,1,1], infinite at t = 0."""
        return self._at("snr", t)

    def c_noise(self, t: Tensor) -> Tensor:
        """What the network is told of t: float32 [N], its place in the process on a scale to 1000, whatever T is."""
        return t.to(torch.float32) * (1000 / self.T)

    def _at(self, name: str, t: Tensor) -> Tensor:
        alphas_bar = self._alphas_bar_at(t)
        values = {
            "alpha": lambda: alphas_bar.sqrt(),
            "sigma": lambda: (1 - alphas_bar).sqrt(),
            "snr": lambda: alphas_bar / (1 - alphas_bar),
        }[name]()
        return values.to(torch.float32).view(-1, 1, 1, 1)

    def _alphas_bar_at(self, t: Tensor) -> Tensor:
        """alpha_bar at integer t, or at real t by linear interpolation of its logarithm (Lu et al. 2022, App. D.1)."""
        table = self._table(t.device)
        if not t.is_floating_point():
            return table[t]
        before = t.floor().clamp(0, self.T - 1).to(torch.long)
        weight = t.to(table.dtype) - before
        return torch.exp((1 - weight) * table[before].log() + weight * table[before + 1].log())

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
            self._tables[device] = self.alphas_bar.to(dtype).to(device)
        return self._tables[device]


def _from_alphas_bar(alpha_bar: Callable[[Tensor], Tensor], T: int) -> Tensor:
    """betas_1..T of the process with the given alpha_bar(t/T), clipped below 1 so that no step destroys everything.

    Nichol and Dhariwal 2021, Sec. 3.2: beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}, at most 0.999.
    """
    values = alpha_bar(torch.arange(T + 1, dtype=torch.float64) / T)
    return (1 - values[1:] / values[:-1]).clamp(max=0.999)


def _linear(T: int) -> Tensor:
    """Ho et al. 2020, Sec. 4: from 1e-4 to 0.02 for T = 1000, scaled by 1000/T as in Nichol and Dhariwal's code."""
    scale = 1000 / T
    return torch.linspace(1e-4 * scale, 0.02 * scale, T, dtype=torch.float64).clamp(max=0.999)


def _cosine(T: int) -> Tensor:
    """Nichol and Dhariwal 2021, Eq. 17: alpha_bar(u) = cos^2((u + s) / (1 + s) * pi / 2), s = 0.008."""
    s = 0.008
    return _from_alphas_bar(lambda u: torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2, T)


def _sigmoid(T: int) -> Tensor:
    """Jabri et al. 2022, Algorithm 1 (`sigmoid`, start -3, end 3, tau 1): a normalised falling sigmoid."""
    start, end, tau = -3.0, 3.0, 1.0
    v_start, v_end = torch.sigmoid(torch.tensor([start / tau, end / tau], dtype=torch.float64))

    def alpha_bar(u: Tensor) -> Tensor:
        falling = (v_end - torch.sigmoid((u * (end - start) + start) / tau)) / (v_end - v_start)
        return falling.clamp(min=1e-9)  # the curve ends at exactly 0, where no step could be inverted

    return _from_alphas_bar(alpha_bar, T)


# A name is a contract with every model file that carries it: add names, never change what one means.
SCHEDULES: dict[str, Callable[[int], Tensor]] = {"linear": _linear, "cosine": _cosine, "sigmoid": _sigmoid}


def make_schedule(name: str, T: int) -> Schedule:
    """The schedule of that name with T steps."""
    return Schedule(torch.cat([torch.zeros(1, dtype=torch.float64), SCHEDULES[name](T)]))
