"""Distribution of the times t in training: uniform over the process, log-normal in sigma, or by importance."""

from typing import Protocol

import torch
from torch import Tensor

from ddpm.diffusion.processes import Process
from ddpm.training.settings import Train

HISTORY = 10
"""Number of past losses stored per time: Nichol and Dhariwal 2021, Sec. 3.3."""


class Times(Protocol):
    """Draws the times of a step and may learn from their losses."""

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return times [n] and weights [n] of their losses that make the mean loss unbiased for `Process.draw`."""

    def learn(self, t: Tensor, losses: Tensor) -> None:
        """Record the losses [n] at the times t [n] of a step."""


class Uniform:
    """The times of the process (`Process.draw`), with equal weights."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return self.process.draw(n, device), torch.ones(n, device=device)

    def learn(self, t: Tensor, losses: Tensor) -> None:
        pass


class LogNormal:
    """ln sigma ~ N(mean, std^2), at most ln sigma_max.  Karras et al. 2022, Tab. 1.

    For a process whose time is sigma. The weights are 1, because this density is part of their objective.
    """

    def __init__(self, process: Process, *, mean: float, std: float) -> None:
        self.process, self.mean, self.std = process, mean, std

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        sigma = (self.mean + self.std * torch.randn(n, device=device)).exp()
        return sigma.clamp(max=self.process.T), torch.ones(n, device=device)

    def learn(self, t: Tensor, losses: Tensor) -> None:
        pass


class Importance:
    """t in 1..T with p_t proportional to sqrt(E[L_t^2]) over the last losses of t.  Nichol and Dhariwal 2021, Eq. 18.

    Uniform until every t has HISTORY losses. `memory` is the whole state, changed in place, so that a checkpoint can
    store it: `losses` float32 [T,HISTORY] and `seen` int64 [T].
    """

    def __init__(self, process: Process, memory: dict[str, Tensor]) -> None:
        T = int(process.T)
        memory.setdefault("losses", torch.zeros(T, HISTORY))
        memory.setdefault("seen", torch.zeros(T, dtype=torch.int64))
        self.losses, self.seen = memory["losses"], memory["seen"]

    def probabilities(self) -> Tensor:
        """Return p_t for t = 1..T: float32 [T]. A thousandth is uniform, so that every time keeps some probability."""
        T = len(self.seen)
        if int(self.seen.min()) < HISTORY:
            return torch.full((T,), 1 / T)
        size = self.losses.square().mean(dim=1).sqrt()
        return 0.999 * size / size.sum() + 0.001 / T

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        p = self.probabilities()
        index = torch.multinomial(p, n, replacement=True)
        return (index + 1).to(device), (1 / (len(p) * p[index])).to(device)

    def learn(self, t: Tensor, losses: Tensor) -> None:
        for index, loss in zip((t - 1).tolist(), losses.tolist(), strict=True):
            self.losses[index, int(self.seen[index]) % HISTORY] = loss
            self.seen[index] += 1


def make_times(process: Process, settings: Train, *, memory: dict[str, Tensor]) -> Times:
    """Return the times of `train.time_sampling`; `memory` is part of the training's state."""
    if settings.time_sampling == "importance":
        return Importance(process, memory)
    if settings.time_sampling == "log_normal":
        mean, std = settings.log_normal
        return LogNormal(process, mean=mean, std=std)
    return Uniform(process)
