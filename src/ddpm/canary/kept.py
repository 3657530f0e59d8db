"""What is kept with a version for later comparisons: pictures of known seeds, and features of measured images."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm.compute.hardware import kind_of_machine
from ddpm.degrading.pictures import Pictures
from ddpm.errors import UserError
from ddpm.generation.generate import generate
from ddpm.generation.recipe import recipe_of
from ddpm.images import Images
from ddpm.measuring.features.extractor import FeatureExtractor, describe
from ddpm.measuring.features.extractor_file import load_extractor
from ddpm.model_file import Model
from ddpm.text.conditions import in_turn, of_texts, read_part

PICTURES = 8
"""Pictures that are drawn again, each by a request of its own, so that no other image of a batch changes its bits."""
ROWS = 1000
"""Measured images whose features are kept, at most."""
GIVEN = 64
"""Degraded pictures that are kept, at most; the canary's images are drawn of them in turn."""
_HEADER = "ddpm-kept"


@dataclass(frozen=True, eq=False)
class Kept:
    """Pictures of known seeds, and features of measured images, of one version."""

    machine: Mapping[str, str | int]
    """The kind of machine that drew the pictures (`hardware.kind_of_machine`)."""
    pictures: Tensor
    """uint8 [P,C,H,W]: picture k has seed k and the fields `condition_of(k)`."""
    features: Tensor
    """float32 [R,D]: features of measured images."""
    labels: Tensor | None
    """int64 [R]: the classes of these images; None without classes."""
    classes: int
    """Number of classes of the model; 0 without classes."""
    extractor: bytes
    """The content of the extractor's file."""
    texts: Sequence[str] = ()
    """Captions of measured images, of a model that knows captions, each as far as the model reads it."""
    given: Sequence[Mapping[str, Any]] = ()
    """Degraded pictures of which measured images were drawn, each as the fields of a request, of a model that is given
    pictures."""

    def condition_of(self, k: int) -> dict[str, Any]:
        """Return the fields of a request that say the label or the caption of picture k, or that give its picture."""
        if self.given:
            return dict(self.given[k % len(self.given)])
        if self.texts:
            return {"text": self.texts[k % len(self.texts)]}
        return {"label": k % self.classes} if self.classes else {}

    def load_extractor(self, device: torch.device) -> FeatureExtractor:
        """Return the extractor. Raises UserError as `extractor_file.load_extractor` does."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "extractor.safetensors"
            path.write_bytes(self.extractor)
            return load_extractor(path, device)

    def write(self, path: Path) -> None:
        """Write a safetensors file; the same content gives the same file."""
        from safetensors.torch import save

        tensors = {
            "pictures": self.pictures.contiguous(),
            "features": self.features.contiguous(),
            "extractor": torch.frombuffer(bytearray(self.extractor), dtype=torch.uint8),
        } | ({} if self.labels is None else {"labels": self.labels.contiguous()})
        described: dict[str, Any] = {"machine": dict(self.machine), "classes": self.classes}
        for name in ("texts", "given"):
            described |= {name: list(getattr(self, name))} if getattr(self, name) else {}
        header = json.dumps(described, sort_keys=True)
        path.write_bytes(save(tensors, {_HEADER: header}))


def read(path: Path) -> Kept:
    """Read the file that `Kept.write` wrote. Raises UserError if it is not complete or another file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {})[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return Kept(
            machine=header["machine"],
            pictures=tensors["pictures"],
            features=tensors["features"],
            labels=tensors.get("labels"),
            classes=header["classes"],
            extractor=tensors["extractor"].numpy().tobytes(),
            texts=tuple(header.get("texts", ())),
            given=tuple(header.get("given", ())),
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} has no pictures and features of a version ({type(error).__name__}: {error}); write it again with "
            "`dvc repro -f -s register`"
        ) from None


def make(
    model: Model,
    *,
    measured: Images,
    labels: np.ndarray | None,
    extractor: Path,
    texts: Sequence[str | None] | None = None,
    given: Pictures | None = None,
) -> Kept:
    """Draw the pictures by the model's recipe, and compute the features of measured images, uint8 [N,C,H,W].

    `labels` are the classes of these images, int64 [N], or `texts` their captions, or `given` the pictures of which
    they were drawn; `extractor` is the file of the extractor.
    """
    known = tuple(filter(None, (read_part(model.asked, text) for text in (texts or ())[:ROWS] if text is not None)))
    device = next(model.network.parameters()).device
    measured = np.asarray(measured[:ROWS])
    described = describe(load_extractor(extractor, device), measured, device=device, progress=False, what="measured")
    return Kept(
        machine=kind_of_machine(device),
        pictures=torch.cat(list(_pictures(model, known, given))),
        features=described.features,
        labels=None if labels is None else torch.from_numpy(np.array(labels[:ROWS])),
        classes=len(model.asked.classes),
        extractor=extractor.read_bytes(),
        texts=known,
        given=() if given is None else [given.picture(k).fields() for k in range(min(GIVEN, len(given)))],
    )


def _pictures(model: Model, texts: Sequence[str], given: Pictures | None) -> Iterator[Tensor]:
    recipe = recipe_of(model)
    assert recipe is not None, "a registered model has a recipe"
    for k in range(PICTURES):
        if given is not None:
            assert model.spec.image is not None
            picture = given.picture(k % min(GIVEN, len(given)))
            row = picture.condition(model.spec.image, noise=recipe.picture_noise, place=(k, 0))
            yield generate(model, recipe, n=1, seed=k, condition=row, batch=1)
            continue
        # Without a text in the request, its only image has the first of the examples.
        turn = in_turn(model.asked, [k if model.asked.classes else 0])
        condition = of_texts(model.asked, [texts[k % len(texts)]]) if texts else turn
        yield generate(model, recipe, n=1, seed=k, condition=condition, batch=1)
