"""The feature extractors of FID, KID, precision and recall, and the features of a set of images.

Without weights of a published network an extractor is a small classifier of the data's own labels or of four rotations
(Gidaris et al. 2018).
"""

import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm.compute.hardware import repeatable_float32
from ddpm.compute.processes import assembled, dealt, leads, rank
from ddpm.errors import UserError
from ddpm.images import Images, to_model_range
from ddpm.measuring.features.classifier import Classifier
from ddpm.measuring.features.description import Description
from ddpm.measuring.features.settings import Trained
from ddpm.measuring.strata import collapsed

HEADER = "ddpm-extractor"
"""The header's only key, with JSON as value: safetensors writes keys in no fixed order, so the sha256 would change."""
BATCH = 128
"""Images extracted at a time; it changes metrics by rounding only."""


class FeatureExtractor(typing.Protocol):
    """What the metrics need of an extractor."""

    @property
    def description(self) -> Description: ...

    @property
    def dim(self) -> int: ...

    @property
    def names_classes(self) -> bool:
        """Whether the logits belong to classes of images, which the Inception score needs."""

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 [N,C,H,W] to features [N,dim] and logits [N,classes], float32; logits may be of no class."""

    def packed(self) -> bytes:
        """Return the content of the extractor's file."""


@dataclass(frozen=True)
class Described:
    """Features and logits of a set of images, on the CPU."""

    features: Tensor  # float32 [N,dim]
    logits: Tensor  # float32 [N,classes]
    labels: Tensor | None = None
    """int64 [N]: classes of the images, if the number of images of each class is no random one; else None."""

    def of_classes(self, labels: np.ndarray | None) -> "Described":
        """Return the same with these labels, int64 [N], or with none."""
        return Described(self.features, self.logits, None if labels is None else torch.from_numpy(np.array(labels)))

    @property
    def strata(self) -> np.ndarray | None:
        """The labels as an array, with classes of one image collapsed into one."""
        return None if self.labels is None else collapsed(self.labels.numpy())

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice | Tensor) -> "Described":
        return Described(self.features[rows], self.logits[rows], None if self.labels is None else self.labels[rows])


@dataclass(frozen=True, eq=False)
class Extractor:
    """The trained small classifier."""

    network: Classifier
    kind: Trained
    accuracy: float
    """Share of held-out images whose class (or rotation) is predicted correctly."""

    @property
    def description(self) -> Description:
        size = self.network.size
        return Description(
            name=f"{self.kind}-{self.dim}",
            layer="means of a texture layer and of the last residual block, standardised",
            resizing=f"none, from {size}x{size} pixels",
            dtype="float32",
            sha256=self.sha256,
        )

    @property
    def dim(self) -> int:
        return self.network.dim

    @property
    def names_classes(self) -> bool:
        return self.kind == "classifier"

    @cached_property
    def sha256(self) -> str:
        """sha256 of the extractor's file."""
        return hashlib.sha256(self.packed()).hexdigest()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(to_model_range(images))

    def packed(self) -> bytes:
        header = {name: getattr(self.network, name) for name in ("channels", "size", "classes", "dim")}
        header |= {"kind": self.kind, "accuracy": self.accuracy}
        weights = {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        return packed(header, weights)


def packed(header: Mapping[str, Any], weights: Mapping[str, Tensor]) -> bytes:
    """Return the content of an extractor's file, the same for the same header and weights."""
    from safetensors.torch import save

    return save(dict(weights), {HEADER: json.dumps(header)})


def require_enough_images(dim: int, counts: Mapping[str, int]) -> None:
    """Require more images than features for FID. Raises UserError with the sentence of `few_for_fid`."""
    if few := few_for_fid(dim, counts):
        raise UserError(f"{few}; have more images, or a smaller extractor (features.extractor, features.dim)")


def few_for_fid(dim: int, counts: Mapping[str, int]) -> str | None:
    """Return which set has too few images for FID, or None: their covariance must not be singular.

    `counts` are numbers of images by the set's name.
    """
    return next(
        (
            f"there are {n} {what} images, but FID with {dim} features needs more than {dim}"
            for what, n in counts.items()
            if n <= dim
        ),
        None,
    )


@repeatable_float32()
def describe(
    extractor: FeatureExtractor,
    images: Images,
    *,
    device: torch.device,
    progress: bool,
    what: str,
    turns: int = 0,
    together: bool = False,
) -> Described:
    """Return features and logits of all images, which are read in batches and rotated left by `turns` quarters.

    `together`: all processes of the stage call it, share the batches, and all of them return all features. On a GPU
    convolutions compute in float32, not in TF32, whose rounding would be in every metric.
    """
    from tqdm import tqdm

    features: dict[int, Tensor] = {}
    logits: dict[int, Tensor] = {}
    shown = progress and leads()
    with tqdm(total=len(images), desc=f"features, {what}", unit="image", delay=1, disable=not shown) as bar:
        for owner, rows in dealt(len(images), BATCH):
            bar.update(rows.stop - rows.start)
            if together and owner != rank():
                continue
            batch = torch.from_numpy(np.array(images[rows])).to(device)
            for kept, part in zip((features, logits), extractor(batch.rot90(turns, (2, 3))), strict=True):
                kept[rows.start] = part.to("cpu", torch.float32)
    if not together:
        return Described(torch.cat(list(features.values())), torch.cat(list(logits.values())))
    whole = [assembled(own, n=len(images), batch=BATCH, everywhere=True) for own in (features, logits)]
    return Described(*(rows for rows in whole if rows is not None))
