"""The feature extractor of FID, KID, precision and recall, and its file.

Without Inception's weights it is a small classifier of the data's own labels or, without labels, of four rotations
(Gidaris et al. 2018). Metrics are comparable only if the extractor's sha256 is equal.
"""

import hashlib
import json
import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ddpm.compute.hardware import full_float32
from ddpm.compute.processes import assembled, dealt, leads, rank
from ddpm.errors import UserError
from ddpm.images import Images, to_model_range
from ddpm.measuring.features.classifier import Classifier

Kind = Literal["classifier", "rotation", "inception"]

INCEPTION = "inception-v3-compat"
INCEPTION_DIM = 2048
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""sha256 of weights-inception-2015-12-05-6726825d.pth, the weights of the original FID (Heusel et al. 2017)."""
HEADER = "ddpm-extractor"
"""The header's only key, with JSON as value: safetensors writes keys in no fixed order, so the sha256 would change."""
BATCH = 128
"""Images extracted at a time; it changes metrics by rounding only."""


class FeatureExtractor(typing.Protocol):
    """What the metrics need of an extractor."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str:
        """sha256 of the weights."""

    @property
    def dim(self) -> int: ...

    @property
    def names_classes(self) -> bool:
        """Whether the logits belong to classes of images, which the Inception score needs."""

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 [N,C,H,W] to features [N,dim] and logits [N,classes], float32."""


@dataclass(frozen=True)
class Described:
    """Features and logits of a set of images, on the CPU."""

    features: Tensor  # float32 [N,dim]
    logits: Tensor  # float32 [N,classes]

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice | Tensor) -> "Described":
        return Described(self.features[rows], self.logits[rows])


@dataclass(frozen=True, eq=False)
class Extractor:
    """The trained small classifier."""

    network: Classifier
    kind: Literal["classifier", "rotation"]
    accuracy: float
    """Share of held-out images whose class (or rotation) is predicted correctly."""

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.dim}"

    @property
    def dim(self) -> int:
        return self.network.dim

    @property
    def names_classes(self) -> bool:
        return self.kind == "classifier"

    @cached_property
    def sha256(self) -> str:
        """sha256 of the file that `save` writes."""
        return hashlib.sha256(self._bytes()).hexdigest()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(to_model_range(images))

    def save(self, path: Path) -> None:
        """Write a temporary file and rename it."""
        _write(path, self._bytes())

    def _bytes(self) -> bytes:
        from safetensors.torch import save

        header = {name: getattr(self.network, name) for name in ("channels", "size", "classes", "dim")}
        header |= {"kind": self.kind, "accuracy": self.accuracy}
        weights = {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        return save(weights, {HEADER: json.dumps(header)})


def require_enough_images(dim: int, counts: Mapping[str, int]) -> None:
    """Require more images than features for FID: with fewer, their covariance is singular and FID is far off.

    `counts` are numbers of images by the set's name. Raises UserError that names the first set that is too small.
    """
    for what, n in counts.items():
        if n <= dim:
            raise UserError(
                f"there are {n} {what} images, but FID with {dim} features needs more than {dim}; "
                "have more images, or a smaller extractor (features.extractor, features.dim)"
            )


@full_float32()
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
    with (
        tqdm(total=len(images), desc=f"features, {what}", unit="image", delay=1, disable=not shown) as bar,
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
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


def record_inception(path: Path, weights: Path) -> None:
    """Write an extractor file that names Inception's weights by path and sha256; the 91 MB are not copied.

    Raises UserError if the weights are missing or are not those of the original FID.
    """
    require_inception_weights(weights)
    from safetensors.torch import save

    header = {"kind": "inception", "dim": INCEPTION_DIM, "weights": str(weights), "weights_sha256": INCEPTION_SHA256}
    _write(path, save({}, {HEADER: json.dumps(header)}))


def require_inception_weights(weights: Path) -> None:
    """Raise UserError if the file is missing or has another content: torch-fidelity would unpickle it."""
    if not weights.is_file():
        raise UserError(
            f"{weights} was not found; put weights-inception-2015-12-05-6726825d.pth of torch-fidelity there, or "
            "set features.inception_weights to null"
        )
    with open(weights, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != INCEPTION_SHA256:
        raise UserError(
            f"{weights} has sha256 {digest[:12]}…, expected {INCEPTION_SHA256[:12]}… of "
            "weights-inception-2015-12-05-6726825d.pth; download it again"
        )


def read_header(path: Path) -> dict[str, Any]:
    """Return kind and dim; for the small network also channels, size, classes, accuracy; for Inception the weights.

    Raises UserError for a file that is missing, incomplete, or not an extractor.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path} is not an extractor file; create one with `dvc repro features`")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except SafetensorError as error:
        raise UserError(
            f"{path} is not a complete safetensors file ({error}); create it again with `dvc repro features`"
        ) from None
    if HEADER not in header:
        raise UserError(
            f"{path} has no {HEADER!r} in its header, so it is not an extractor of this project; "
            "create one with `dvc repro features`"
        )
    return json.loads(header[HEADER])


def load(path: Path, device: torch.device | str = "cpu") -> Extractor:
    """Load the small extractor in the file. (`measuring.fidelity.load_extractor` also loads Inception.)"""
    from safetensors.torch import load_file

    header = read_header(path)
    kind, accuracy = header.pop("kind"), header.pop("accuracy")
    network = Classifier(**header)
    network.load_state_dict(load_file(path))
    return Extractor(network.to(device).eval().requires_grad_(False), kind, accuracy)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(content)
    os.replace(aside, path)
