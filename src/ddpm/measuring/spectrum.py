"""The power spectrum of images, and their sharpness: the power of high frequencies relative to real images."""

from dataclasses import dataclass

import numpy as np

from ddpm.images import Images
from ddpm.measuring.measured import Measured, from_influences

_BATCH_NUMBERS = 2**22
"""Numbers of a batch of images, so that the transform needs less than 0.3 GB."""


@dataclass(frozen=True)
class Spectra:
    """Mean power spectra of two sets of images, averaged over directions and channels."""

    frequencies: np.ndarray
    """float64 [F], in cycles per pixel, from 0 to at most 0.5."""
    images: np.ndarray
    """float64 [F], mean power of the images, in squared grey levels (0..255)."""
    reference: np.ndarray
    """float64 [F], the same of the reference images."""


def spectra(images: Images, reference: Images) -> Spectra:
    """Return the mean spectra of images, uint8 [N,C,H,W], and of reference images, uint8 [M,C,H,W], for a plot."""
    rings = _rings(images.shape[2], images.shape[3])
    frequencies = np.arange(rings.max() + 1) / min(images.shape[2:])
    return Spectra(frequencies, *(_powers(part).mean(axis=0) for part in (images, reference)))


def upper_powers(images: Images) -> np.ndarray:
    """Return the mean power of the upper half of the frequencies of images, uint8 [N,C,H,W]: float64 [N].

    Frequencies above 0.5 cycles per pixel, which only diagonals have, do not count. Images below 4 pixels have 0.
    """
    powers = _powers(images)
    upper = powers[:, powers.shape[1] // 2 + 1 :]
    return upper.mean(axis=1) if upper.size else np.zeros(len(images))


def sharpness(images: np.ndarray, reference: np.ndarray) -> Measured | None:
    """Return the mean of the `upper_powers` [N] of images relative to the mean of those [M] of reference images.

    1: as sharp as the reference; less: blurred; more: noise. None if the reference has no power at these frequencies.
    """
    scale = reference.mean()
    if scale == 0:
        return None
    value = images.mean() / scale
    return from_influences(float(value), images / scale - value, value * (1 - reference / scale))


def _powers(images: Images) -> np.ndarray:
    """Return each image's power, averaged over the frequencies of each ring and over channels: float64 [N,F]."""
    height, width = images.shape[2:]
    rings = _rings(height, width)
    counts = np.bincount(rings[rings >= 0])
    step = max(1, _BATCH_NUMBERS // int(np.prod(images.shape[1:])))
    parts = []
    for first in range(0, len(images), step):
        transformed = np.fft.fft2(np.asarray(images[first : first + step], np.float64), norm="ortho")
        power = np.square(np.abs(transformed)).mean(axis=1)
        parts.append(np.stack([power[:, rings == ring].sum(axis=1) for ring in range(len(counts))], axis=1) / counts)
    return np.concatenate(parts)


def _rings(height: int, width: int) -> np.ndarray:
    """Return the frequency of each number of a transform, in whole cycles per smaller side; -1 above 0.5 per pixel."""
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    rings = np.rint(radius * min(height, width)).astype(np.int64)
    return np.where(rings <= min(height, width) // 2, rings, -1)
