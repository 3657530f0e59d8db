"""How near an image is to the one that it should be: PSNR and SSIM."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.images import HIGH, LOW

_WINDOW, _SIGMA = 11, 1.5
"""Size and standard deviation, in pixels, of the Gaussian window of SSIM."""
_K1, _K2 = 0.01, 0.03
_LEAST_ERROR = 1e-10
"""Mean squared error on a scale of 1 below which PSNR stays at 100 dB, so that equal images have a finite one."""


def psnr(x: Tensor, x_hat: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of images [N,C,H,W] in [-1, 1]: dB, float64 [N], at most 100."""
    error = (x.double() - x_hat.double()).div(HIGH - LOW).square().flatten(1).mean(dim=1)
    return -10 * error.clamp(min=_LEAST_ERROR).log10()


def ssim(x: Tensor, x_hat: Tensor) -> Tensor:
    """Return the structural similarity of images [N,C,H,W] in [-1, 1], mean over channels: float64 [N], 1 for equal.

    Wang et al. 2004: Gaussian windows of 11x11 pixels that lie in the image, sigma 1.5. In a smaller image the window
    has the largest odd size that fits.
    """
    n, channels = x.shape[:2]
    size = min(_WINDOW, *((side - 1) // 2 * 2 + 1 for side in x.shape[2:]))
    place = torch.arange(size, dtype=torch.float64, device=x.device) - size // 2
    line = (-0.5 * (place / _SIGMA).square()).exp()
    window = torch.outer(line, line)[None, None] / line.sum().square()

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values.flatten(0, 1)[:, None], window)

    a, b = ((image.double() - LOW) / (HIGH - LOW) for image in (x, x_hat))
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b, both = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2, mean(a * b) - mean_a * mean_b
    c1, c2 = _K1**2, _K2**2
    found = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return found.view(n, channels, -1).mean(dim=(1, 2))
