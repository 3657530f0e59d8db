"""Damages of a set of real images, each in steps from none to heavy, so that the reaction of every metric is seen.

The n images of a set get a random order. A damage that hits a share of them hits the first ones of this order, so a
heavier step hits the same images and more. All steps have n images, because FID depends on their number.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddpm.images import TOP
from ddpm.seeding import seed_of

BLURS = 4
LEAST_BLUR, MOST_BLUR = 0.35, 0.1
"""Standard deviations of the Gaussian blur in equal ratios: the least in pixels, below which nothing changes, and the
largest as a share of the image's height."""
NOISES = (10, 20, 40, 80)
"""Standard deviations of the noise, in grey levels."""
HALVES = (0.1, 0.25, 0.5, 1.0)
"""Shares of the images that are put together of two halves."""
COPIES = (0.05, 0.1, 0.25, 0.5)
"""Shares of the images that are replaced by training images."""
MISSING = (0.1, 0.2, 0.3, 0.5)
"""Shares of the classes without an image. Half of them at most: no other image is needed more than twice then."""
DISTINCT = (0.5, 0.25, 0.1, 0.03)
"""Shares of the images that are different ones; the others repeat them."""
SHOWN = 10
"""Images of each step to look at."""


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a damage, from none to heavy."""

    caption: str
    """The step in a few words with its unit, such as "σ 2 pixels"."""
    hit: np.ndarray
    """bool [n]: the images that are changed or replaced."""
    rows: np.ndarray
    """int64 [n]: where the images of the step are in `Damage.images`."""


@dataclass(frozen=True, eq=False)
class Damage:
    """A damage of n images in its steps, the first of which is none."""

    name: str
    title: str
    images: np.ndarray
    """uint8 [m,C,H,W]: the n images, and after them the damaged ones of all steps."""
    steps: tuple[Step, ...]
    shown: np.ndarray
    """int64 [at most SHOWN]: images to look at, of which a step hits about as large a share as of all."""


def damages(images: np.ndarray, labels: np.ndarray | None) -> Iterator[Damage]:
    """Yield every damage of the set, uint8 [n,C,H,W], without that of copies; labels are int64 [n].

    Without at least two classes there is none that leaves out classes.
    """
    yield _blur(images)
    yield _noise(images)
    yield _halves(images)
    if labels is not None and len(np.unique(labels)) > 1:
        yield _missing_classes(images, labels)
    yield _repetition(images)


def copies(images: np.ndarray, train: np.ndarray) -> Damage:
    """Return the damage that replaces held-out images, uint8 [n,C,H,W], by training images."""
    others = train[np.arange(len(images)) % len(train)]
    return _replaced("copies", "Copies of training images", images, others, COPIES)


def _blur(images: np.ndarray) -> Damage:
    largest = max(MOST_BLUR * images.shape[2], 2 * LEAST_BLUR)
    blurred = {
        f"σ {sigma:.2g} pixels": _blurred(images, sigma) for sigma in np.geomspace(LEAST_BLUR, largest, BLURS).tolist()
    }
    return _changed("blur", "Blurred", images, blurred)


def _noise(images: np.ndarray) -> Damage:
    noise = _random("noise of pixels").standard_normal(images.shape, np.float32)
    noised = {f"σ {level} of {TOP} grey levels": _levels(torch.from_numpy(images + level * noise)) for level in NOISES}
    return _changed("noise", "Noised", images, noised)


def _halves(images: np.ndarray) -> Damage:
    """Replace images by their left half beside the right half of another image."""
    others, middle = images[_random("partners").permutation(len(images))], images.shape[3] // 2
    joined = np.concatenate([images[..., :middle], others[..., middle:]], axis=3)
    return _replaced("halves", "Put together of two halves", images, joined, HALVES)


def _missing_classes(images: np.ndarray, labels: np.ndarray) -> Damage:
    """Replace the images of some classes by further ones of the other classes."""
    random = _random("missing classes")
    names, indices = np.unique(labels, return_inverse=True)
    place = random.permutation(len(names))[indices]  # of the image's class in the order in which classes go
    mixed = random.permutation(len(images))
    order = mixed[np.argsort(place[mixed], kind="stable")]
    counts = sorted({min(max(1, round(share * len(names))), len(names) - 1) for share in MISSING})
    steps = [_repeated(f"{count} of {len(names)} classes", place >= count, mixed) for count in counts]
    return _damage("missing_classes", "Classes missing", images, steps, order)


def _repetition(images: np.ndarray) -> Damage:
    order = _random("repetition").permutation(len(images))
    steps = []
    for share in DISTINCT:
        count = max(1, round(share * len(images)))
        kept = np.zeros(len(images), bool)
        kept[order[-count:]] = True
        steps.append(_repeated(f"{count:,} different images", kept, order))
    return _damage("repetition", "Few images, repeated", images, steps, order)


def _changed(name: str, title: str, images: np.ndarray, by_step: dict[str, np.ndarray]) -> Damage:
    """Return a damage that changes every image; `by_step` has the images of each step by its caption."""
    n = len(images)
    steps = [
        Step(caption, np.ones(n, bool), np.arange(k * n, (k + 1) * n)) for k, caption in enumerate(by_step, start=1)
    ]
    order = _random(name).permutation(n)
    return _damage(name, title, np.concatenate([images, *by_step.values()]), steps, order)


def _replaced(name: str, title: str, images: np.ndarray, others: np.ndarray, shares: Sequence[float]) -> Damage:
    """Return a damage that replaces these shares of the images by the others in the same places."""
    n = len(images)
    order = _random(name).permutation(n)
    steps = []
    for share in shares:
        hit = np.zeros(n, bool)
        hit[order[: max(1, round(share * n))]] = True
        steps.append(Step(f"{share:.0%} of the images", hit, np.arange(n) + n * hit))
    return _damage(name, title, np.concatenate([images, others]), steps, order)


def _repeated(caption: str, kept: np.ndarray, order: np.ndarray) -> Step:
    """Return the step that replaces the images that are not kept by those that are, as evenly as possible."""
    rows = np.arange(len(kept))
    rows[order[~kept[order]]] = np.resize(order[kept[order]], np.count_nonzero(~kept))
    return Step(caption, ~kept, rows)


def _damage(name: str, title: str, images: np.ndarray, steps: Sequence[Step], order: np.ndarray) -> Damage:
    n = len(order)
    count = min(SHOWN, n)
    shown = order[((np.arange(count) + 0.5) * n / count).astype(np.int64)]
    return Damage(name, title, images, (Step("none", np.zeros(n, bool), np.arange(n)), *steps), shown)


def _random(purpose: str) -> np.random.Generator:
    return np.random.default_rng(seed_of("damage", purpose))


def _blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    """Blur by a Gaussian of this many pixels; pixels beyond the border are those at the border."""
    rows, columns = (_blurring(size, sigma) for size in images.shape[2:])
    return _levels(rows @ torch.from_numpy(images).float() @ columns.T)


def _blurring(size: int, sigma: float) -> Tensor:
    """Return the matrix [size,size] that blurs a line of pixels."""
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    sources = (torch.arange(size)[:, None] + offsets).clamp(0, size - 1)
    matrix = torch.zeros(size, size)
    return matrix.scatter_add_(1, sources, (weights / weights.sum()).expand(size, -1))


def _levels(values: Tensor) -> np.ndarray:
    return values.round().clamp(0, TOP).to(torch.uint8).numpy()
