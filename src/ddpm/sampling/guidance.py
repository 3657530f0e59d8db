"""Wrappers of a denoiser: guidance, clipping and thresholding. A sampler gets the wrapped denoiser."""

from collections.abc import Callable

from torch import Tensor

from ddpm import images
from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.processes import Process
from ddpm.diffusion.sample_shape import per_sample
from ddpm.sampling.samplers import instant_of

ConditionalDenoise = Callable[[Tensor, Tensor, object], Estimate]
"""(x_t [N, C, *shape], t [N], condition) -> the estimate of x_0, and of the variance of the step.

Only the network and the data interpret the condition; None means no condition."""
Active = Callable[[Tensor], bool]
"""Whether guidance is on at the times t [N], which are all equal."""


def classifier_free(
    denoise: ConditionalDenoise, *, scale: float, rescale: float = 0.0, active: Active | None = None
) -> ConditionalDenoise:
    """Return x_0 = unconditional + scale * (conditional - unconditional).  Ho and Salimans 2022, Eq. 6, scale = w + 1.

    The variance is that of the conditional estimate. The formula is in x_0; it is the same in eps or v, because these
    are affine in x_0 at fixed x_t. A scale of 1 is the conditional denoiser itself and costs one evaluation. So does a
    scale of 0 without `rescale`, the unconditional one with its own variance, and a call without a condition (None),
    which is not guided.
    """
    if scale == 1:
        return denoise

    def unconditional(x_t: Tensor, t: Tensor, condition: object) -> Estimate:
        return denoise(x_t, t, None)

    if scale == 0 and rescale == 0:
        return lambda x_t, t, condition: (unconditional if active is None or active(t) else denoise)(x_t, t, condition)
    toward = autoguided(denoise, unconditional, scale=scale, rescale=rescale, active=active)
    return lambda x_t, t, condition: (denoise if condition is None else toward)(x_t, t, condition)


def autoguided(
    denoise: ConditionalDenoise,
    weaker: ConditionalDenoise,
    *,
    scale: float,
    rescale: float = 0.0,
    active: Active | None = None,
) -> ConditionalDenoise:
    """Return the denoiser x_0 = weaker + scale * (denoise - weaker), which moves away from a weaker model's errors.

    Karras et al. 2024 (Autoguidance), Eq. 3. The variance is that of `denoise`. `rescale` and `active` are those of
    `rescaled` and `within`. If guidance is off, or scale is 1, `weaker` is not evaluated.
    """

    def guided(x_t: Tensor, t: Tensor, condition: object) -> Estimate:
        if scale == 1 or not (active is None or active(t)):
            return denoise(x_t, t, condition)
        base, _ = weaker(x_t, t, condition)
        x_0, fraction = denoise(x_t, t, condition)
        return Estimate(rescaled(base + scale * (x_0 - base), x_0, share=rescale), fraction)

    return guided


def within(process: Process, interval: tuple[float, float]) -> Active:
    """Allow guidance only where sigma_t / alpha_t lies in (low, high].  Kynkäänniemi et al. 2024, Eq. 5."""
    low, high = interval

    def active(t: Tensor) -> bool:
        now = instant_of(t)
        sigma, alpha = process.sigma(now).item(), process.alpha(now).item()
        return low * alpha < sigma and not sigma > high * alpha  # this form is right for high = inf at alpha = 0

    return active


def rescaled(guided: Tensor, conditional: Tensor, *, share: float) -> Tensor:
    """Move the standard deviation by `share` to the conditional estimate's, per image.  Lin et al. 2023, Eq. 15 and 16.

    They rescale the network's v; here x_0 is rescaled, so that it works for every target of the network.
    """
    if share == 0:
        return guided
    std = [per_sample(x.flatten(1).std(dim=1), x) for x in (conditional, guided)]
    return share * guided * (std[0] / std[1]) + (1 - share) * guided


def clipped(denoise: ConditionalDenoise) -> ConditionalDenoise:
    """Return the denoiser with x_0 clipped to the range of images, [-1, 1], as in Ho et al.'s published code."""

    def estimate(x_t: Tensor, t: Tensor, condition: object) -> Estimate:
        x_0, fraction = denoise(x_t, t, condition)
        return Estimate(images.clipped(x_0), fraction)

    return estimate


def thresholded(denoise: ConditionalDenoise, *, quantile: float) -> ConditionalDenoise:
    """Return the denoiser with dynamic thresholding: x_0 is clipped to [-s, s] and divided by s.

    s is the quantile of |x_0| per image, at least 1.

    Saharia et al. 2022 (Imagen), Sec. 2.3 and appendix A.
    """

    def estimate(x_t: Tensor, t: Tensor, condition: object) -> Estimate:
        x_0, fraction = denoise(x_t, t, condition)
        s = per_sample(x_0.abs().flatten(1).quantile(quantile, dim=1).clamp(min=1), x_0)
        return Estimate(x_0.clamp(-s, s) / s, fraction)

    return estimate
