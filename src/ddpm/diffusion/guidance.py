"""What surrounds a denoiser: guidance and clipping. A sampler sees the result and does not know."""

from collections.abc import Callable

from torch import Tensor

LabelledDenoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def classifier_free(denoise: LabelledDenoise, *, scale: float) -> LabelledDenoise:
    """x_0 = unconditional + scale * (conditional - unconditional).  Ho and Salimans 2022, Eq. 6, scale = w + 1.

    Stated in x_0; the same in eps or v, since these are affine in x_0 at fixed x_t. A scale of 1 is the conditional
    denoiser itself and costs one evaluation; so does a call without labels (None), which has nothing to guide.
    """
    if scale == 1:
        return denoise

    def guided(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        unconditional = denoise(x_t, t, None)
        if labels is None:
            return unconditional
        return unconditional + scale * (denoise(x_t, t, labels) - unconditional)

    return guided


def clipped(denoise: LabelledDenoise) -> LabelledDenoise:
    """The estimate held to the range of images, [-1, 1], as in Ho et al.'s published code."""
    return lambda x_t, t, labels: denoise(x_t, t, labels).clamp(-1, 1)
