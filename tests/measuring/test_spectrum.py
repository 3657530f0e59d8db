"""Sharpness is 1 for real images, lower for blurred and higher for noisy ones, and its interval covers the truth."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ddpm.measuring.measured import Measured
from ddpm.measuring.spectrum import sharpness, spectra, upper_powers


def measured(images: np.ndarray, reference: np.ndarray) -> Measured | None:
    return sharpness(upper_powers(images), upper_powers(reference))


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    images = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)[:, None]
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[360:]], images[order[:360]]


def blurred(images: np.ndarray, share: float) -> np.ndarray:
    """Mix images with the mean of the four neighbours of each pixel."""
    pixels = images.astype(float)
    around = sum(np.roll(pixels, by, axis) for by in (-1, 1) for axis in (2, 3)) / 4
    return np.rint((1 - share) * pixels + share * around).astype(np.uint8)


def test_real_images_are_as_sharp_as_real_ones(digits) -> None:
    found = measured(*digits)
    assert found.low < 1 < found.high
    assert found.high - found.low < 0.2


def test_sharpness_falls_with_blur_and_rises_with_noise(digits) -> None:
    train, held_out = digits
    by_blur = [measured(blurred(train, share), held_out).value for share in (0, 0.1, 0.2, 0.4)]
    assert by_blur == sorted(by_blur, reverse=True)
    assert by_blur[-1] < 0.4
    noise = np.random.default_rng(0).normal(size=train.shape)
    noisy = [np.clip(np.rint(train + std * noise), 0, 255).astype(np.uint8) for std in (0, 20, 40, 80)]
    by_noise = [measured(images, held_out).value for images in noisy]
    assert by_noise == sorted(by_noise)
    assert by_noise[-1] > 1.5


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (9, 3), (16, 1)])
def test_a_wave_has_its_power_at_its_frequency_and_white_noise_everywhere(size: int, channels: int) -> None:
    waves = size // 2 - 1
    wave = 128 + 100 * np.cos(2 * np.pi * waves * np.arange(size) / size)
    images = np.broadcast_to(np.rint(wave).astype(np.uint8), (3, channels, size, size))
    noise = np.random.default_rng(0).integers(0, 256, (2000, channels, size, size)).astype(np.uint8)
    found = spectra(images, noise)
    assert found.images[1:].argmax() + 1 == waves
    assert found.frequencies[waves] == pytest.approx(waves / size)
    assert found.frequencies[-1] <= 0.5
    # The power of noise is its variance at each frequency but 0.
    assert found.reference[1:] == pytest.approx((256**2 - 1) / 12, rel=0.05)


def test_the_interval_covers_the_ratio_of_two_distributions_in_93_to_97_of_100_cases() -> None:
    random = np.random.default_rng(0)

    def images(n: int, contrast: float) -> np.ndarray:
        scale = contrast * random.uniform(0.5, 1.5, (n, 1, 1, 1))
        return np.clip(np.rint(128 + scale * random.normal(size=(n, 1, 8, 8))), 0, 255).astype(np.uint8)

    truth = measured(images(40_000, 30), images(40_000, 20)).value
    found = [measured(images(150, 30), images(100, 20)) for _ in range(600)]
    assert 0.93 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.97


@pytest.mark.parametrize("shape", [(5, 1, 3, 3), (5, 3, 1, 1), (5, 1, 2, 8)])
def test_images_below_four_pixels_and_constant_reference_images_have_no_measured(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert measured(random, random) is None
    larger = np.zeros((5, 1, 8, 8), np.uint8)
    assert measured(larger + np.uint8(3), larger) is None
