"""Have the pictures that come in drifted away from the pictures of the champion?

They are compared with the held-out pictures of the prepared data: a sample of the same data as the training pictures,
which the feature extractor has not been trained on. An extractor makes other features of pictures that it was trained
on, so new pictures of the same kind would differ from those.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ddpm.data import manifest
from ddpm.data.preparing.settings import Data
from ddpm.data.reading.dataset import Facts, read_facts, read_split
from ddpm.drifting import incoming as incoming_files
from ddpm.drifting.incoming import Batch, NewFile
from ddpm.drifting.two_samples import Answer, Sample, compare
from ddpm.measuring.features.extractor import FeatureExtractor, describe
from ddpm.measuring.features.subset import Subset, draw_rows
from ddpm.pipeline.settings import Retrain

if TYPE_CHECKING:
    from ddpm.compute.settings import Runtime

SHOWN = 10
"""Pictures of each set in the picture of the drift."""


@dataclass(frozen=True, eq=False)
class Set:
    """One of the two sets of pictures."""

    sample: Sample
    images: np.ndarray
    """uint8 [at most SHOWN,C,H,W]: those that are most unlike the other set."""


@dataclass(frozen=True, eq=False)
class Drift:
    """The result of a comparison."""

    answer: Answer
    incoming: Set
    reference: Set
    new: int
    """New files in the folder."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Number of files that were looked at and cannot be used, by reason."""
    usable: tuple[str, ...] = ()
    """The sha256 of each file that was compared."""

    def sentence(self) -> str:
        """Return what was found in one line: the distances that differ with their thresholds."""
        sets = f"{len(self.incoming.sample):,} incoming pictures against {len(self.reference.sample):,} held-out ones"
        found = [
            f"{LABELS[each.name]} {each.value:.3g}, at most {each.threshold:.3g} in the same data"
            for each in self.answer.compared
            if each.drifted
        ]
        return f"{'; '.join(found) if found else 'nothing differs beyond chance'} ({sets})"

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {
            "drifted": self.answer.drifted,
            "p": self.answer.p,
            "incoming": len(self.incoming.sample),
            "reference": len(self.reference.sample),
            "new": self.new,
            "rejected": self.rejected,
            "usable": list(self.usable),
            "sentence": self.sentence(),
            "compared": {
                each.name: {"value": each.value, "threshold": each.threshold, "p": each.p, "drifted": each.drifted}
                for each in self.answer.compared
            },
        }


LABELS = {
    "frechet": "Fréchet distance",
    "kernel": "kernel distance (MMD²)",
    "shares": "class shares (log Bayes factor)",
    "brightness": "brightness (largest gap)",
    "contrast": "contrast (largest gap)",
    "side": "size (largest gap)",
    "aspect": "aspect ratio (largest gap)",
}
"""What each distance is called; a gap is that of two cumulative distributions."""


def measure(
    files: Sequence[NewFile],
    *,
    folder: Path,
    prepared: Path,
    extractor: FeatureExtractor,
    data: Data,
    settings: Retrain,
    device: torch.device,
    runtime: "Runtime | None" = None,
) -> Drift:
    """Compare new files of the folder with the held-out pictures. Raises UserError if too few can be used."""
    facts = read_facts(prepared)

    def decoded(some: Sequence[NewFile], most: int) -> Iterator[Batch]:
        return incoming_files.decoded(
            some, folder=folder, size=facts.size, channels=facts.channels, data=data, most=most
        )

    usable: list[NewFile] = []
    records, features, reasons = [], [], []
    for batch in decoded(files, settings.most_images):
        usable += batch.files
        records.append(batch.records)
        reasons += [reason for _, reason in batch.rejected]
        if batch.files:
            features.append(_features(extractor, batch.pixels, device))
    incoming_files.require_enough(len(usable), settings, folder)
    own = _of_files(usable, np.concatenate(records), np.concatenate(features))
    held_out, images = _held_out(prepared, facts, extractor, settings.most_images, device, runtime)
    answer = compare(own, held_out, false_alarms=settings.false_alarms)
    unlike_reference, unlike_incoming = _most_unlike(own.features, held_out.features)
    shown = decoded([usable[row] for row in unlike_reference], SHOWN)
    return Drift(
        answer,
        Set(own, np.concatenate([batch.pixels for batch in shown])),
        Set(held_out, images[np.sort(unlike_incoming)]),
        new=len(files),
        rejected={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        usable=tuple(file.sha256 for file in usable),
    )


def _features(extractor: FeatureExtractor, pixels: Any, device: torch.device) -> np.ndarray:
    described = describe(extractor, pixels, device=device, progress=False, what="drift")
    return described.features.double().numpy()


def _of_files(files: Sequence[NewFile], records: np.ndarray, features: np.ndarray) -> Sample:
    names = [file.folder_class for file in files]
    classes = None if None in names else tuple(name for name in names if name is not None)
    return _sample(features, records["mean"], records["std"], records["width"], records["height"], classes)


def _held_out(
    prepared: Path,
    facts: Facts,
    extractor: FeatureExtractor,
    most: int,
    device: torch.device,
    runtime: "Runtime | None",
) -> tuple[Sample, Subset]:
    """Return held-out pictures, at most this many by a seeded draw."""
    import pyarrow as pa
    import pyarrow.compute as pc

    images = read_split(prepared, "test", runtime).images
    rows = np.sort(draw_rows(min(len(images), most), len(images), seed=0))
    columns = ["index", "split", "original_width", "original_height", "mean", "std", "label"]
    parts = [part.filter(pc.equal(part["split"], "test")) for part in manifest.read(prepared, columns)]
    table = pa.concat_tables(parts).sort_by("index").take(rows)
    mean, std, width, height = (
        table[name].to_numpy().astype(float) for name in ("mean", "std", "original_width", "original_height")
    )
    labels = table["label"].to_pylist()
    subset = Subset(images, rows)
    classes = tuple(labels) if facts.classes else None
    return _sample(_features(extractor, subset, device), mean, std, width, height, classes), subset


def _sample(
    features: np.ndarray,
    mean: np.ndarray,
    std: np.ndarray,
    width: np.ndarray,
    height: np.ndarray,
    classes: tuple[str, ...] | None,
) -> Sample:
    return Sample(
        features,
        brightness=mean.astype(float),
        contrast=std.astype(float),
        side=np.minimum(width, height).astype(float),
        aspect=width / np.maximum(height, 1),
        classes=classes,
    )


def _most_unlike(own: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the pictures that the kernel distance sees as most unlike the other set, for both sets.

    It is the difference of a picture's mean kernel with both sets, the witness function of Gretton et al. (2012).
    """

    def mean_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return ((a @ b.T / a.shape[1] + 1) ** 3).mean(axis=1)

    return (
        np.argsort(mean_kernel(own, other) - mean_kernel(own, own))[:SHOWN],
        np.argsort(mean_kernel(other, own) - mean_kernel(other, other))[:SHOWN],
    )
