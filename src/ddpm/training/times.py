"""Distribution of the times t in training: uniform over the process, log-normal in noise level, or by importance."""

from typing import Protocol

import torch
from torch import Tensor

from ddpm.diffusion.processes import Process, VarianceExploding
from ddpm.training.settings import Train

HISTORY = 10
"""Number of past losses stored per time: Nichol and Dhariwal 2021, Sec. 3.3."""
_TABULATED = 2**14
"""Times of a continuous process at which `LogNormal` tabulates the noise level."""


class Times(Protocol):
    """Draws the times of a step and may learn from their losses."""

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return times [n] and weights [n] of their losses that make the mean loss unbiased for `Process.draw`."""

    def learn(self, t: Tensor, losses: Tensor, *, skipped: Tensor) -> None:
        """Record the losses [n] at the times t [n] of a step, unless it was `skipped`: bool [], on the device."""


class Uniform:
    """The times of the process (`Process.draw`), with equal weights."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return self.process.draw(n, device), torch.ones(n, device=device)

    def learn(self, t: Tensor, losses: Tensor, *, skipped: Tensor) -> None:
        pass


class LogNormal:
    """ln(sigma / alpha) ~ N(mean, std^2), within the process's range.  Karras et al. 2022, Tab. 1, where alpha is 1.

    On the linear path of flow matching ln(sigma / alpha) is the logit of t/T plus ln(shift), so t/T is logit-normal
    with the mean `mean` - ln(shift). At shift 1 this is the time of Esser et al. 2024, Sec. 3.1; their shifted times
    (Eq. 23) are mean = ln(shift), std = 1. A discrete chain gets the nearest step. The weights are 1, because this
    density is part of their objective.
    """

    def __init__(self, process: Process, *, mean: float, std: float) -> None:
        self.process, self.mean, self.std = process, mean, std
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        log_noise = self.mean + self.std * torch.randn(n, device=device)
        return self._time(log_noise), torch.ones(n, device=device)

    def _time(self, log_noise: Tensor) -> Tensor:
        """Return the time at which ln(sigma / alpha) is this, interpolated between tabulated times."""
        T = self.process.T
        if isinstance(self.process, VarianceExploding):
            return log_noise.exp().clamp(max=T)
        times, levels = self._table(log_noise.device)
        after = torch.searchsorted(levels, log_noise).clamp(1, len(levels) - 1)
        share = ((log_noise - levels[after - 1]) / (levels[after] - levels[after - 1])).clamp(0, 1)
        t = torch.lerp(times[after - 1], times[after], share)
        return t.round().to(torch.long) if isinstance(T, int) else t

    def _table(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return rising times and ln(sigma / alpha) at them: float32 [K] each. A chain has all its steps in it."""
        if device in self._tables:
            return self._tables[device]
        T = self.process.T
        chain = isinstance(T, int)
        times = torch.arange(1, T + 1) if chain else torch.linspace(1e-5 * T, T, _TABULATED, dtype=torch.float64)
        levels = (self.process.sigma(times) / self.process.alpha(times)).log()
        self._tables[device] = times.to(torch.float32).to(device), levels.to(torch.float32).to(device)
        return self._tables[device]

    def learn(self, t: Tensor, losses: Tensor, *, skipped: Tensor) -> None:
        pass


class Importance:
    """t in 1..T with p_t proportional to sqrt(E[L_t^2]) over the last losses of t.  Nichol and Dhariwal 2021, Eq. 18.

    Uniform until every t has HISTORY losses. `memory` is the whole state, changed in place, so that a checkpoint can
    store it: `losses` float32 [T,HISTORY] and `seen` int64 [T], both on the device.
    """

    def __init__(self, process: Process, memory: dict[str, Tensor], device: torch.device) -> None:
        T = int(process.T)
        memory["losses"] = memory.get("losses", torch.zeros(T, HISTORY)).to(device)
        memory["seen"] = memory.get("seen", torch.zeros(T, dtype=torch.int64)).to(device)
        self.losses, self.seen = memory["losses"], memory["seen"]

    def probabilities(self) -> Tensor:
        """Return p_t for t = 1..T: float32 [T]. A thousandth is uniform, so that every time keeps some probability."""
        T = len(self.seen)
        size = self.losses.square().mean(dim=1).sqrt()
        learned = 0.999 * size / size.sum() + 0.001 / T
        return learned.masked_fill(self.seen.min() < HISTORY, 1 / T)

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        p = self.probabilities()
        index = torch.multinomial(p, n, replacement=True)
        return index + 1, 1 / (len(p) * p[index])

    def learn(self, t: Tensor, losses: Tensor, *, skipped: Tensor) -> None:
        """The n-th loss of a time takes place n modulo HISTORY; of more than HISTORY in a step, the last ones stay."""
        index = t - 1
        ones = torch.ones_like(index)
        count = torch.zeros_like(self.seen).index_add_(0, index, ones)
        ordered, order = index.sort(stable=True)
        before = torch.cat([count.new_zeros(1), count.cumsum(0)])[ordered]  # losses of smaller times in this step
        number = torch.arange(len(index), device=index.device) - before  # of this loss among those of its time
        lost = skipped | (number < count[ordered] - HISTORY)
        place = ordered * HISTORY + (self.seen[ordered] + number) % HISTORY
        nowhere = self.losses.numel()
        kept = torch.cat([self.losses.flatten(), self.losses.new_zeros(1)])
        kept[place.masked_fill(lost, nowhere)] = losses[order].to(kept.dtype)
        self.losses.copy_(kept[:nowhere].view_as(self.losses))
        self.seen += count.masked_fill(skipped, 0)


def make_times(process: Process, settings: Train, *, memory: dict[str, Tensor], device: torch.device) -> Times:
    """Return the times of `train.time_sampling`; `memory` is part of the training's state and moves to the device."""
    if settings.time_sampling == "importance":
        return Importance(process, memory, device)
    if settings.time_sampling == "log_normal":
        mean, std = settings.log_normal
        return LogNormal(process, mean=mean, std=std)
    return Uniform(process)
