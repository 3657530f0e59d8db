"""Training of a diffusion model: the loss of Ho et al. 2020, Algorithm 1, by noise level."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm.diffusion import objectives
from ddpm.diffusion.processes import Process
from ddpm.diffusion.settings import Objective
from ddpm.training.methods.method import Drawn, Images
from ddpm.training.times import Times


class Diffusion:
    """The network predicts the objective's target from x_t = alpha x_0 + sigma eps.

    The terms are the losses in the quarters of the noise range, least noise first.
    """

    terms = tuple(f"loss_noise_quarter_{k}" for k in range(1, 5))

    def __init__(self, process: Process, times: Times, objective: Objective) -> None:
        self._process, self._times, self._objective = process, times, objective
        self._quarter: Callable[[Tensor], Tensor] | None = None

    def arguments(self, images: Images) -> tuple[object, ...]:
        return images.x_0, torch.zeros(len(images.x_0), device=images.x_0.device), images.condition, images.numbers

    def draw(self, shape: torch.Size, device: torch.device, layout: torch.memory_format) -> Drawn:
        t, weights = self._times.draw(shape[0], device)
        return Drawn(torch.randn_like(torch.empty(shape, device=device, memory_format=layout)), weights, t)

    def losses(self, network: Callable[..., Tensor], images: Images, drawn: Drawn, rows: slice) -> Tensor:
        assert drawn.t is not None

        def predict(x: Tensor, c_noise: Tensor) -> Tensor:
            return network(x, c_noise, images.condition, images.numbers)

        t, eps = drawn.t[rows], drawn.noise[rows]
        return objectives.loss(self._objective, predict, self._process, x_0=images.x_0, t=t, eps=eps)[:, None]

    def means(self, values: Tensor, drawn: Drawn) -> Tensor:
        assert drawn.t is not None
        if self._quarter is None:
            self._quarter = quarters(self._process, drawn.t.device)
        quarter, sums = self._quarter(drawn.t), torch.zeros(2, 4, device=values.device)
        sums[0].index_add_(0, quarter, drawn.weights * values[:, 0])
        sums[1].index_add_(0, quarter, drawn.weights)
        return sums

    def learn(self, values: Tensor, drawn: Drawn, *, skipped: Tensor) -> None:
        assert drawn.t is not None
        self._times.learn(drawn.t, values[:, 0], skipped=skipped)


def quarters(process: Process, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the function of t [N] that says in which quarter of the noise range t is: int64 [N], 0 the least noise.

    The quarters are even on the scale of c_noise.
    """
    clean, noisy = process.c_noise(torch.tensor([0.0, process.T], device=device))

    def quarter(t: Tensor) -> Tensor:
        place = (process.c_noise(t) - clean) / (noisy - clean)
        return ((4 * place).ceil() - 1).clamp(0, 3).to(torch.int64)

    return quarter
