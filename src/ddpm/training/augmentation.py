"""Non-leaky augmentation: random transformations of training images, and the numbers that describe them.

The network gets the numbers as an input, so it learns the images given their transformation. All numbers of an
untouched image are 0, and sampling uses 0: it draws images without transformations.

Karras et al. 2022, appendix F.2, with the transformations of Karras et al. 2020 ("ADA"), appendix B.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.compute.hardware import sent
from ddpm.diffusion.sample_shape import per_sample
from ddpm.images import clipped
from ddpm.seeding import seed_of
from ddpm.training.settings import Augment, Transform

SCALE_STD = 0.2
"""Standard deviation of log2 of the factor of scale and of stretch."""
SHIFT_STD = 0.125
"""Standard deviation of a shift along one axis, as a share of the image's size."""
TAPS = 6
"""Pixels on each side of a new one that `_doubling` uses."""


@dataclass(frozen=True)
class Transformations:
    """The transformations of N images. A matrix maps positions in the result to positions in the image.

    Positions are (x, y, 1) from the image's centre, in halves of its size; x points to the right, y down.
    """

    reflections: np.ndarray
    """float64 [N,3,3]: mirrored and flipped images; they are reflected first, without resampling."""
    matrices: np.ndarray
    """float64 [N,3,3]: all other transformations, composed."""
    numbers: np.ndarray
    """float32 [N,K]: the description for the network."""

    def apply(self, images: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Return the images of this part of the N, transformed, and their numbers [n,K], on the device of the images.

        `images` is [n,C,H,H] in the model's range, and so is the result. Untouched images are returned exactly.
        """
        for axis in (0, 1):
            reflected = sent(self.reflections[part, axis, axis] < 0, images.device)
            images = torch.where(per_sample(reflected, images), images.flip(-1 - axis), images)
        matrices = self.matrices[part]
        (moved,) = (matrices != np.eye(3)).any(axis=(1, 2)).nonzero()
        if len(moved):
            rows = sent(moved, images.device)
            images = images.index_copy(0, rows, resampled(images[rows], sent(matrices[moved], images.device)))
        return images, sent(self.numbers[part], images.device)


def draw(settings: Augment, n: int, *, seed: int, images_seen: int) -> Transformations | None:
    """Return the transformations of the batch of `n` images after `images_seen` images; None without augmentation.

    Those of one kind do not depend on which other kinds `settings` has.
    """
    if settings.probability == 0:
        return None
    reflections, matrices, numbers = np.eye(3), np.eye(3), []
    for name, kind in _KINDS.items():
        if name not in settings.transforms:
            continue
        random = np.random.default_rng(seed_of("augment", name, seed, images_seen))
        chosen = random.random(n) < settings.probability
        matrix, description = kind.draw(random, n)
        matrix = np.where(chosen[:, None, None], matrix, np.eye(3))
        if name in ("mirror", "flip"):
            reflections = reflections @ matrix
        else:
            matrices = matrices @ matrix
        numbers.append(np.where(chosen[:, None], description, 0))
    every = (n, 3, 3)
    described = np.concatenate(numbers, axis=1).astype(np.float32)
    return Transformations(np.broadcast_to(reflections, every), np.broadcast_to(matrices, every), described)


def numbers_in(settings: Augment) -> int:
    """Return K, the count of numbers that describe an image's transformations; 0 without augmentation."""
    return sum(_KINDS[name].numbers for name in settings.transforms) if settings.probability else 0


def resampled(images: Tensor, matrices: Tensor) -> Tensor:
    """Return images [N,C,H,H] transformed by matrices [N,3,3], which map positions in the result to the image.

    Beyond its edges an image continues mirrored. It is doubled in size by a windowed sinc first and then interpolated
    by cubics, once for all transformations together: a rotation there and back keeps photographs at 37 dB, where
    cubics alone keep 35 and bilinear interpolation 31. Values that overshoot the model's range are clipped.
    """
    height = images.shape[-1]
    double = _doubling(height, images.device).to(images.dtype)
    grid = F.affine_grid(matrices[:, :2].to(images), list(images.shape), align_corners=False)
    finer = double @ images @ double.T
    return clipped(F.grid_sample(finer, grid, mode="bicubic", padding_mode="reflection", align_corners=False))


@lru_cache(maxsize=4)
def _doubling(size: int, device: torch.device) -> Tensor:
    """Return the matrix, float32 [2 size, size], that doubles a line of pixels; at its ends it continues mirrored.

    The new pixels are a quarter of a pixel beside the old ones. The kernel is Lanczos's of TAPS lobes, which damps only
    frequencies near the highest.
    """
    place = (torch.arange(2 * size, dtype=torch.float64) + 0.5) / 2 - 0.5
    pixel = torch.arange(-TAPS, size + TAPS)
    distance = place[:, None] - pixel
    weight = torch.sinc(distance) * torch.sinc(distance / TAPS) * (distance.abs() < TAPS)
    folded = pixel % (2 * size)
    folded = torch.where(folded < size, folded, 2 * size - 1 - folded)
    matrix = torch.zeros(2 * size, size, dtype=torch.float64).index_add_(1, folded, weight)
    return (matrix / matrix.sum(dim=1, keepdim=True)).to(torch.float32).to(device)


class _Kind(NamedTuple):
    """A kind of transformation."""

    numbers: int
    """Length of its description."""
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
    """(random, n) -> matrices [n,3,3] (see `Transformations`) and descriptions [n,numbers]."""


def _mirror(_: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.tile(np.diag([-1.0, 1.0, 1.0]), (n, 1, 1)), np.ones((n, 1))


def _flip(_: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.tile(np.diag([1.0, -1.0, 1.0]), (n, 1, 1)), np.ones((n, 1))


def _scale(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Enlarge by 2^(0.2 z); the number is z."""
    z = random.standard_normal(n)
    return _stretching(-SCALE_STD * z, -SCALE_STD * z), z[:, None]


def _rotate(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotate by any angle a, clockwise; the numbers are cos a - 1 and sin a."""
    angle = random.uniform(-math.pi, math.pi, n)
    return _rotation(-angle), np.stack([np.cos(angle) - 1, np.sin(angle)], axis=1)


def _stretch(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Enlarge by 2^(0.2 z) along an axis of any angle r and shrink as much across it.

    The numbers are z cos 2r and z sin 2r, since r + pi is the same axis and r + pi/2 with -z the same transformation.
    """
    z, angle = random.standard_normal(n), random.uniform(-math.pi, math.pi, n)
    matrix = _rotation(angle) @ _stretching(-SCALE_STD * z, SCALE_STD * z) @ _rotation(-angle)
    return matrix, z[:, None] * np.stack([np.cos(2 * angle), np.sin(2 * angle)], axis=1)


def _shift(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Shift right and down by 0.125 z of the size; the numbers are the two z."""
    z = random.standard_normal((n, 2))
    matrix = np.tile(np.eye(3), (n, 1, 1))
    matrix[:, :2, 2] = -2 * SHIFT_STD * z
    return matrix, z


def _stretching(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the matrices [n,3,3] that multiply the axes by 2^x and 2^y, both [n]."""
    matrix = np.tile(np.eye(3), (len(x), 1, 1))
    matrix[:, 0, 0], matrix[:, 1, 1] = np.exp2(x), np.exp2(y)
    return matrix


def _rotation(angle: np.ndarray) -> np.ndarray:
    """Return the matrices [n,3,3] of rotations from the x axis towards the y axis by these angles [n]."""
    matrix = np.tile(np.eye(3), (len(angle), 1, 1))
    matrix[:, 0, 0] = matrix[:, 1, 1] = np.cos(angle)
    matrix[:, 1, 0] = np.sin(angle)
    matrix[:, 0, 1] = -matrix[:, 1, 0]
    return matrix


# In the order in which an image gets them, and the network their numbers.
_KINDS: dict[Transform, _Kind] = {
    "mirror": _Kind(1, _mirror),
    "flip": _Kind(1, _flip),
    "scale": _Kind(1, _scale),
    "rotate": _Kind(2, _rotate),
    "stretch": _Kind(2, _stretch),
    "shift": _Kind(2, _shift),
}
