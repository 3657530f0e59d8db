"""Accuracy of a classifier trained on real images, on generated ones and on both, to rate generated training data."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ddpm.errors import UserError
from ddpm.images import Images
from ddpm.measuring.features.extractor_training import LabelledImages, rows_described, train_extractor
from ddpm.measuring.features.settings import Features


@dataclass(frozen=True)
class Labelled:
    """Images and their labels."""

    images: Images
    """uint8 [N,C,H,W]"""
    labels: np.ndarray
    """int64 [N]"""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Accuracy of the classifier on held-out real images, by its training images; a share in 0..1.

    The standard error of an accuracy p is sqrt(p (1 - p) / test_images).
    `generated` is the classification accuracy score of Ravuri and Vinyals 2019.
    """

    real: float
    generated: float
    both: float
    real_images: int
    generated_images: int
    test_images: int

    def numbers(self) -> dict[str, float]:
        """Return the accuracies by metric name, for a tracker."""
        return {f"accuracy_trained_on_{name}": getattr(self, name) for name in ("real", "generated", "both")}


def compare(
    real: LabelledImages,
    generated: LabelledImages,
    test: LabelledImages,
    *,
    settings: Features,
    device: torch.device,
    progress: bool,
) -> Augmentation:
    """Train the extractor's classifier three times with equal settings (images seen, seed, ...) on different images.

    Labels are in memory, images are not. Raises UserError for images without classes.
    """
    if real.labels is None or generated.labels is None or test.labels is None or len(np.unique(real.labels)) < 2:
        raise UserError(
            "evaluate.augmentation is true, but the images have no classes for a classifier to learn; set it to false"
        )
    both = Labelled(_Joined(real.images, generated.images), np.concatenate([real.labels, generated.labels]))
    classes = int(max(labels.max() for labels in (both.labels, test.labels))) + 1
    accuracies = {
        name: train_extractor(
            images, test, kind="classifier", classes=classes, settings=settings, device=device, progress=progress
        ).accuracy
        for name, images in (("real", real), ("generated", generated), ("both", both))
    }
    return Augmentation(
        **accuracies,
        real_images=len(real.images),
        generated_images=len(generated.images),
        test_images=len(rows_described(test.images, settings)),
    )


class _Joined:
    """Two sets of images, one after the other, uint8 [N,C,H,W]; rows are read when they are indexed."""

    def __init__(self, first: Images, second: Images) -> None:
        self._sets = first, second
        self.shape = (len(first) + len(second), *first.shape[1:])
        self.dtype, self.nbytes = first.dtype, first.nbytes + second.nbytes

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        first, second = self._sets
        images = np.empty((len(rows), *self.shape[1:]), self.dtype)
        is_first = rows < len(first)
        images[is_first], images[~is_first] = first[rows[is_first]], second[rows[~is_first] - len(first)]
        return images


def read_generated(folder: Path) -> Labelled:
    """Read images.npy and labels.npy. Raises UserError if the images have no labels."""
    if not (folder / "labels.npy").is_file():
        raise UserError(f"{folder} has no labels.npy, so evaluate.augmentation has no classes; set it to false")
    return Labelled(np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "labels.npy"))
