"""Samplers that walk by the score at a noise level: annealed Langevin dynamics, and the predictor with a corrector.

One step of Langevin dynamics at level t is x + epsilon score(x) + sqrt(2 epsilon) z. Both papers choose epsilon by r,
the norm of its drift over the norm of its noise ("signal-to-noise ratio"): epsilon = 2 r^2 sigma_t^2.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from ddpm.diffusion.gaussian import q_posterior
from ddpm.diffusion.objectives import score_from_x_0
from ddpm.diffusion.processes import Process
from ddpm.diffusion.samplers import Denoise, Noise, Step, at


def annealed_langevin(
    denoise: Denoise, process: Process, x_T: Tensor, grid: Sequence[float], noise: Noise, *, steps: int, snr: float
) -> Iterator[Step]:
    """`steps` Langevin steps at every level, each starting where the last ended.  Song and Ermon 2019, Algorithm 1.

    Their step alpha_i = epsilon sigma_i^2 / sigma_L^2 is 4 snr^2 sigma_i^2: snr is 0.22 in their Sec. 5. Between levels
    x / alpha stays, which is theirs where alpha is 1. Ends with the denoiser's estimate (Jolicoeur-Martineau et al.
    2021, Sec. 3.1), since the last level's noise is in the sample otherwise. Evaluations: levels times steps, plus one.
    """
    x = x_T
    for now, then in pairwise(grid):
        t, s = at(now, x), at(then, x)
        alpha, sigma = process.alpha(t), process.sigma(t)
        for _ in range(steps):
            x_0 = denoise(x, t)
            x = x + 2 * snr**2 * sigma**2 * score_from_x_0(x_0, x, alpha, sigma) + 2 * snr * sigma * noise()
        if then == 0:
            x = x_0 = denoise(x, t)
        else:
            x = process.alpha(s) / alpha * x
        yield Step(then, x, x_0)


def predictor_corrector(
    denoise: Denoise, process: Process, x_T: Tensor, grid: Sequence[float], noise: Noise, *, steps: int, snr: float
) -> Iterator[Step]:
    """An ancestral step, then `steps` Langevin steps at the level it reached.  Song et al. 2021, Alg. 2 and app. F.

    The corrector is Algorithm 4: epsilon = 2 (snr |z| / |score|)^2 with the norms of every image. (Algorithm 5, for
    variance-preserving processes, has beside that a factor 1 - beta_t, which is near 1.) It leaves out the last level,
    the image itself. Evaluations: 1 + steps at every level but the last, and there 1.
    """
    x = x_T
    for now, then in pairwise(grid):
        t, s = at(now, x), at(then, x)
        x_0 = denoise(x, t)
        x, variance = q_posterior(process, x_0, x, t, s)
        if then > 0:
            x = x + variance.sqrt() * noise()
            for _ in range(steps):
                score, z = score_from_x_0(denoise(x, s), x, process.alpha(s), process.sigma(s)), noise()
                epsilon = 2 * (snr * _norm(z) / _norm(score)) ** 2
                x = x + epsilon * score + (2 * epsilon).sqrt() * z
        yield Step(then, x, x_0)


def _norm(x: Tensor) -> Tensor:
    """Of every image: [N,1,1,1]."""
    return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
