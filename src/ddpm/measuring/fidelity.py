"""The record of a model: its images, real ones for the floor, and copies, described once and measured.

Features are computed once and passed to functions of features, so that all metrics share them. torch-fidelity's own
extraction and its cache, whose key is a name, not the content, are not used.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ddpm.compute.processes import least_of
from ddpm.images import Images
from ddpm.measuring.classes_covered import left_out
from ddpm.measuring.comparable import require_comparable
from ddpm.measuring.data_copying import data_copying
from ddpm.measuring.feature_metrics import measured
from ddpm.measuring.features.extractor import Described, FeatureExtractor, describe
from ddpm.measuring.features.subset import draw_rows
from ddpm.measuring.measured import Measured
from ddpm.measuring.memorization import CopiesInEveryWay, find_copies_in_every_way
from ddpm.measuring.memorized_share import memorized
from ddpm.measuring.record import Metrics, Protocol, Record
from ddpm.measuring.second_extractor import SecondFeatures, described_by_second, measured_by_second
from ddpm.measuring.settings import Evaluate
from ddpm.measuring.spectrum import sharpness, upper_powers
from ddpm.measuring.strata import Labels
from ddpm.seeding import seed_of

HASH_BYTES = 2**24
UNLABELLED: tuple[Labels, Labels, Labels] = (None, None, None)


@dataclass(frozen=True)
class Compared:
    """What takes time or memory in the measurement of generated images; the metrics follow from it quickly."""

    made: Described
    """The generated images."""
    reference: Described
    """The held-out images."""
    real: Described
    """Training images for the floor: as many as there are generated images, if there are so many."""
    sharpness: tuple[Measured | None, Measured | None]
    """Of the generated images and of those for the floor."""
    copies: CopiesInEveryWay
    held_out: Images
    """The held-out images that were used, uint8 [M,C,H,W]."""
    reference_hash: str
    """sha256 of the held-out images."""
    second: SecondFeatures | None


def compare_sets(
    generated: Images,
    train: Images,
    test: Images,
    *,
    extractor: FeatureExtractor,
    settings: Evaluate,
    seed: int,
    device: torch.device,
    progress: bool,
    together: bool = False,
    second: FeatureExtractor | None = None,
    labels: tuple[Labels, Labels, Labels] = UNLABELLED,
) -> Compared:
    """Describe the images, uint8 [N,C,H,W], and find copies among them, in one pass over the training images.

    `seed`, that of the generated images, decides which held-out images are used if there are more than
    `evaluate.held_out_images`, and which training images are those of the floor. Neither the features nor the pixels of
    all training images are in memory at any time. `together`: all processes of the stage call it, share the work, and
    return the same. `second` is the second extractor, if there is one. `labels` are the classes of the three
    sets, int64 [N]; those of a random subset are dropped, because its numbers of images of each class are random.
    Raises UserError for generated images of another shape than the real ones, and for a set with too few images.
    """
    of_made, of_train, of_test = labels
    held_out, of_held_out = reference_images(test, settings, seed=seed, labels=of_test)
    require_comparable(generated, train, held_out, dim=extractor.dim, settings=settings)
    made, reference = (
        describe(extractor, images, device=device, progress=progress, what=what, together=together).of_classes(classes)
        for images, what, classes in ((generated, "generated", of_made), (held_out, "held-out", of_held_out))
    )
    rows = _floor_rows(len(generated), len(train), seed=seed)
    real = _Taken(rows, like=made)

    def features_of(start: int, images: np.ndarray) -> np.ndarray:
        described = describe(extractor, images, device=device, progress=False, what="training")
        real.take(start, described, images)
        return described.features.numpy()

    copies = find_copies_in_every_way(
        (generated, held_out, train),
        (made.features.numpy(), reference.features.numpy()),
        features_of,
        quantile=settings.memorized_quantile,
        device=device,
        progress=progress,
        together=together,
    )
    by_second = None
    if second is not None:
        by_second = described_by_second(
            second,
            generated=generated,
            held_out=held_out,
            train=train,
            floor=rows,
            device=device,
            progress=progress,
            together=together,
        )
    floor, floor_powers = real.taken(together=together)
    floor = floor.of_classes(of_train[rows] if of_train is not None and len(rows) == len(of_train) else None)
    real_powers = upper_powers(held_out)
    sharp = sharpness(upper_powers(generated), real_powers), sharpness(floor_powers, real_powers)
    return Compared(made, reference, floor, sharp, copies, held_out, hash_of(held_out), by_second)


def reference_images(test: Images, settings: Evaluate, *, seed: int, labels: Labels = None) -> tuple[Images, Labels]:
    """Return the held-out images to measure against: all, or a seeded subset of `evaluate.held_out_images`.

    The labels of a subset are None, because its numbers of images of each class are random.
    """
    if len(test) <= settings.held_out_images:
        return test, labels
    return test[np.sort(draw_rows(settings.held_out_images, len(test), seed=seed_of("held-out", seed)))], None


def measure_images(
    generated: Images,
    train: Images,
    test: Images,
    *,
    extractor: FeatureExtractor,
    settings: Evaluate,
    drawing: Mapping[str, Any],
    seed: int,
    device: torch.device,
    progress: bool,
    second: FeatureExtractor | None = None,
    labels: tuple[Labels, Labels, Labels] = UNLABELLED,
) -> tuple[Record, CopiesInEveryWay]:
    """Return metrics of generated images against held-out real ones (test), and the copies among them.

    All images are uint8 [N,C,H,W]; `drawing` and `seed` are how the generated ones were drawn.
    Raises UserError as `compare_sets` does.
    """
    compared = compare_sets(
        generated,
        train,
        test,
        extractor=extractor,
        second=second,
        settings=settings,
        seed=seed,
        device=device,
        progress=progress,
        labels=labels,
    )
    return record_of(compared, extractor=extractor, settings=settings, drawing=drawing, seed=seed), compared.copies


def metrics_of(
    compared: Compared, *, extractor: FeatureExtractor, settings: Evaluate, seed: int
) -> dict[str, Measured | None]:
    """Return all metrics of the generated images by name; the arguments are those of `measure_images`."""
    made, reference, copies = compared.made, compared.reference, compared.copies.features
    copying = data_copying(
        (made.features, copies.nearest.distance),
        (reference.features, copies.held_out.distance),
        compared.real.features,
        seed=seed,
    )
    found = measured(made, reference, settings=settings, names_classes=extractor.names_classes, seed=seed)
    if compared.second is not None:
        second, labels = compared.second, (made.strata, reference.strata)
        found |= measured_by_second(second.made, second.reference, settings=settings, labels=labels)
    return found | {"sharpness": compared.sharpness[0], "data_copying": copying} | memorized(compared.copies)


def record_of(
    compared: Compared, *, extractor: FeatureExtractor, settings: Evaluate, drawing: Mapping[str, Any], seed: int
) -> Record:
    """Return the metrics with their floor and protocol; the arguments are those of `measure_images`."""
    import torch_fidelity

    made, reference, real, second = compared.made, compared.reference, compared.real, compared.second
    of_real = measured(real, reference, settings=settings, names_classes=extractor.names_classes, seed=seed)
    of_real |= {"sharpness": compared.sharpness[1]} | memorized(compared.copies, held_out=True)
    if second is not None:
        of_real |= measured_by_second(second.real, second.reference, settings=settings)
    return Record(
        metrics=Metrics.of(metrics_of(compared, extractor=extractor, settings=settings, seed=seed)),
        floor=Metrics.of(of_real),
        floor_n=len(real),
        classes_left_out=left_out(reference.logits) if extractor.names_classes else 0,
        protocol=Protocol(
            drawing=dict(drawing),
            seed=seed,
            n=len(made),
            reference_hash=compared.reference_hash,
            reference_n=len(reference),
            extractor=extractor.description.to_json(),
            second=None if second is None else second.description.to_json(),
            torch_fidelity=torch_fidelity.__version__,
            kid_subset_size=settings.kid_subset_size,
            kid_subsets=settings.kid_subsets,
            neighbours=settings.neighbours,
            memorized_quantile=settings.memorized_quantile,
        ),
    )


def reconstructed_metrics(
    reconstruct: Callable[[np.ndarray], np.ndarray],
    train: Images,
    compared: Compared,
    *,
    extractor: FeatureExtractor,
    settings: Evaluate,
    seed: int,
    device: torch.device,
    progress: bool,
) -> Metrics:
    """Return the metrics of the training images of the floor after `reconstruct`, which keeps uint8 [N,C,H,W].

    Copies are not searched, since all of them are.
    """
    rows = _floor_rows(len(compared.made), len(train), seed=seed)
    images = reconstruct(train[np.sort(rows)])
    described = describe(extractor, images, device=device, progress=progress, what="reconstructed")
    found = measured(described, compared.reference, settings=settings, names_classes=extractor.names_classes, seed=seed)
    return Metrics.of(found | {"sharpness": sharpness(upper_powers(images), upper_powers(compared.held_out))})


def _floor_rows(made: int, train: int, *, seed: int) -> np.ndarray:
    """Return the training images of the floor: as many as generated ones, since FID depends on their number."""
    return draw_rows(min(made, train), train, seed=seed_of("floor", seed))


class _Taken:
    """Features, logits and upper powers of some rows of a set, taken while pieces of the set are described."""

    def __init__(self, rows: np.ndarray, *, like: Described) -> None:
        self._order = torch.from_numpy(np.argsort(rows))
        self._rows = rows[self._order]
        self._described = [torch.full((len(rows), part.shape[1]), math.inf) for part in (like.features, like.logits)]
        self._powers = torch.full((len(rows),), math.inf, dtype=torch.float64)

    def take(self, start: int, piece: Described, images: np.ndarray) -> None:
        """Take what belongs to these rows from the rows from `start` on, uint8 [n,C,H,W]."""
        found = slice(*np.searchsorted(self._rows, [start, start + len(piece)]))
        at, rows = self._order[found], torch.from_numpy(self._rows[found] - start)
        for part, given in zip(self._described, (piece.features, piece.logits), strict=True):
            part[at] = given[rows]
        if len(rows):
            self._powers[at] = torch.from_numpy(upper_powers(images[rows.numpy()]))

    def taken(self, *, together: bool) -> tuple[Described, np.ndarray]:
        """Return the rows in the order in which they were given, and their `upper_powers`.

        `together`: all processes took their part of the rows.
        """
        parts = [*self._described, self._powers]
        features, logits, powers = map(least_of, parts) if together else parts
        return Described(features, logits), powers.numpy()


def hash_of(images: Images) -> str:
    """Return the sha256 of shape and pixels, which are read in pieces."""
    digest = hashlib.sha256(str(images.shape).encode())
    step = max(1, HASH_BYTES // images[0].nbytes)
    for start in range(0, len(images), step):
        digest.update(images[start : start + step].tobytes())
    return digest.hexdigest()
