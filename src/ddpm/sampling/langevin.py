"""Samplers that walk by the score at a noise level: annealed Langevin dynamics, and the predictor with a corrector.

One step of Langevin dynamics at level t is x + epsilon score(x) + sqrt(2 epsilon) z. Both papers choose epsilon by r,
the norm of its drift over the norm of its noise ("signal-to-noise ratio"). Here epsilon = 2 r^2 sigma_t^2: that is
the ratio where the score is what the noise alone makes it, of norm sqrt(d) / sigma_t in d dimensions, and as no
direction of q(x_t) is narrower than sigma_t, the walk is stable for every r below 1, whatever the data.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from ddpm.diffusion.gaussian import q_posterior
from ddpm.diffusion.objectives import score_from_x_0
from ddpm.diffusion.processes import Process
from ddpm.diffusion.sample_shape import per_sample
from ddpm.sampling.samplers import Denoise, Noise, Step, at


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
        for _ in range(steps):
            x_0, _ = denoise(x, t)
            x = _walked(x, x_0, process, t, noise, snr=snr)
        if then == 0:
            x = x_0 = denoise(x, t).x_0
        else:
            x = process.alpha(per_sample(s, x)) / process.alpha(per_sample(t, x)) * x
        yield Step(then, x, x_0)


def predictor_corrector(
    denoise: Denoise, process: Process, x_T: Tensor, grid: Sequence[float], noise: Noise, *, steps: int, snr: float
) -> Iterator[Step]:
    """An ancestral step, then `steps` Langevin steps at the level it reached.  Song et al. 2021, Alg. 2 and app. F.

    The corrector is Algorithm 4 with epsilon = 2 snr^2 sigma_s^2 for 2 (snr |z| / |score|)^2. The authors' norms are
    means over the batch, on which an image must not depend here; the norms of one image are no measure of anything in
    few dimensions, where the score may be next to 0 and the step of any length. (Algorithm 5, for variance-preserving
    processes, has beside that a factor 1 - beta_t, which is near 1.) It leaves out the last level, the image itself.
    Evaluations: 1 + steps at every level but the last, and there 1.
    """
    x = x_T
    for now, then in pairwise(grid):
        t, s = at(now, x), at(then, x)
        x_0, _ = denoise(x, t)
        x, variance = q_posterior(process, x_0, x, t, s)
        if then > 0:
            x = x + variance.sqrt() * noise()
            for _ in range(steps):
                x = _walked(x, denoise(x, s).x_0, process, s, noise, snr=snr)
        yield Step(then, x, x_0)


def _walked(x: Tensor, x_0: Tensor, process: Process, t: Tensor, noise: Noise, *, snr: float) -> Tensor:
    """One Langevin step at t from x, whose denoised estimate is x_0."""
    t = per_sample(t, x)
    sigma = process.sigma(t)
    return x + 2 * snr**2 * sigma**2 * score_from_x_0(x_0, x, process.alpha(t), sigma) + 2 * snr * sigma * noise()
