"""PSNR and SSIM are those of their definitions, computed a second time by scipy."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ddpm.measuring.psnr_ssim import psnr, ssim


def by_scipy(x: np.ndarray, y: np.ndarray, *, radius: int) -> float:
    """Return the SSIM of two channels on a scale of 1: windows inside of the image."""

    def mean(values: np.ndarray) -> np.ndarray:
        inside = slice(radius, -radius or None)
        return gaussian_filter(values, sigma=1.5, radius=radius)[inside, inside]

    m, n = mean(x), mean(y)
    v, w, both = mean(x * x) - m * m, mean(y * y) - n * n, mean(x * y) - m * n
    c1, c2 = 0.01**2, 0.03**2
    return float(((2 * m * n + c1) * (2 * both + c2) / ((m * m + n * n + c1) * (v + w + c2))).mean())


def pair(channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(3, channels, height, width, generator=draw) * 2 - 1
    return x, (0.8 * x + 0.3 * torch.randn(x.shape, generator=draw)).clamp(-1, 1)


@pytest.mark.parametrize(("shape", "radius"), [((1, 16, 24), 5), ((3, 32, 32), 5), ((1, 8, 8), 3), ((1, 9, 20), 4)])
def test_ssim_is_that_of_a_second_implementation(shape: tuple[int, int, int], radius: int) -> None:
    x, y = pair(*shape)
    a, b = ((each.double().numpy() + 1) / 2 for each in (x, y))
    expected = [np.mean([by_scipy(a[k, c], b[k, c], radius=radius) for c in range(shape[0])]) for k in range(len(a))]
    assert ssim(x, y).tolist() == pytest.approx(expected, abs=1e-9)
    assert max(expected) < 0.95


def test_equal_images_have_ssim_1_and_the_largest_psnr() -> None:
    x, _ = pair(3, 16, 16)
    assert ssim(x, x).tolist() == pytest.approx([1, 1, 1])
    assert psnr(x, x).tolist() == pytest.approx([100, 100, 100])


def test_psnr_is_in_decibels_of_the_range_of_images() -> None:
    x = torch.zeros(2, 1, 8, 8)
    y = torch.stack([x[0] + 0.2, x[0] + 0.02])  # 0.1 and 0.01 on a scale of 1
    assert psnr(x, y).tolist() == pytest.approx([20, 40], abs=1e-4)
