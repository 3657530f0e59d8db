"""Samplers with Langevin steps at a noise level: annealed Langevin dynamics, and the predictor-corrector sampler.

One step of Langevin dynamics at level t is x + epsilon score(x) + sqrt(2 epsilon) z. Both papers choose epsilon by r,
the norm of the drift over the norm of the noise ("signal-to-noise ratio"). Here epsilon = 2 r^2 sigma_t^2. This has the
ratio r if the score is that of the noise alone, whose norm is sqrt(d) / sigma_t in d dimensions. No direction of q(x_t)
is narrower than sigma_t, so the steps are stable for every r below 1, for any data.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from ddpm.diffusion.gaussian import q_posterior
from ddpm.diffusion.objectives import score_from_x_0
from ddpm.diffusion.processes import Process
from ddpm.sampling.samplers import Denoise, Noise, Step, at, instant


def annealed_langevin(
    denoise: Denoise, process: Process, x_T: Tensor, grid: Sequence[float], noise: Noise, *, steps: int, snr: float
) -> Iterator[Step]:
    """Take `steps` Langevin steps at every level, each from the last one's end.  Song and Ermon 2019, Algorithm 1.

    Their step alpha_i = epsilon sigma_i^2 / sigma_L^2 is 4 snr^2 sigma_i^2: snr is 0.22 in their Sec. 5. Between levels
    x / alpha is kept, which is their rule for alpha = 1. The end is the denoiser's estimate (Jolicoeur-Martineau et al.
    2021, Sec. 3.1); otherwise the last level's noise would stay in the sample. Evaluations: levels times steps, plus 1.
    """
    x = x_T
    for now, then in pairwise(grid):
        t = at(now, x)
        for _ in range(steps):
            x_0, _ = denoise(x, t)
            x = _walked(x, x_0, process, now, noise, snr=snr)
        if then == 0:
            x = x_0 = denoise(x, t).x_0
        else:
            x = process.alpha(instant(then)) / process.alpha(instant(now)) * x
        yield Step(then, x, x_0)


def predictor_corrector(
    denoise: Denoise, process: Process, x_T: Tensor, grid: Sequence[float], noise: Noise, *, steps: int, snr: float
) -> Iterator[Step]:
    """Take an ancestral step, then `steps` corrector steps at its level.  Song et al. 2021, Alg. 2 and app. F.

    The corrector is Algorithm 4 with epsilon = 2 snr^2 sigma_s^2 for 2 (snr |z| / |score|)^2. The authors' norms are
    means over the batch, but here an image must not depend on its batch. The norms of one image do not work in few
    dimensions, where the score may be close to 0 and the step arbitrarily long. (Algorithm 5, for variance-preserving
    processes, also has a factor 1 - beta_t, which is near 1.) The last level, the image itself, has no corrector step.
    Evaluations: 1 + steps at every level but the last, and 1 at the last.
    """
    x = x_T
    for now, then in pairwise(grid):
        x_0, _ = denoise(x, at(now, x))
        x, variance = q_posterior(process, x_0, x, instant(now), instant(then))
        if then > 0:
            x, s = x + variance.sqrt() * noise(), at(then, x)
            for _ in range(steps):
                x = _walked(x, denoise(x, s).x_0, process, then, noise, snr=snr)
        yield Step(then, x, x_0)


def _walked(x: Tensor, x_0: Tensor, process: Process, t: float, noise: Noise, *, snr: float) -> Tensor:
    """Take one Langevin step at t from x, whose denoised estimate is x_0."""
    alpha, sigma = process.alpha(instant(t)), process.sigma(instant(t))
    return x + 2 * snr**2 * sigma**2 * score_from_x_0(x_0, x, alpha, sigma) + 2 * snr * sigma * noise()
