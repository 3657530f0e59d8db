"""A folder of generated images: images.npy, how they were drawn in sample.json, and labels.npy or captions.json."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ddpm.errors import UserError
from ddpm.files import write_json
from ddpm.generation.recipe import Recipe, recipe_from
from ddpm.settings import as_dict

CAPTIONS = "captions.json"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The settings of a set of images: with the same model and labels they give the same images."""

    n: int
    seed: int
    recipe: Recipe

    def write(self, path: Path) -> None:
        write_json(path, {"n": self.n, "seed": self.seed, "recipe": as_dict(self.recipe)})


def read_sampling(folder: Path, *, n: int | None) -> Sampling:
    """Read the settings of the n images in a folder, or of as many as there are, from its sample.json.

    Raise UserError if the file is missing, incomplete, or describes another number of images.
    """
    path = folder / "sample.json"
    try:
        values = json.loads(path.read_text())
        sampling = Sampling(n=values["n"], seed=values["seed"], recipe=recipe_from(values["recipe"]))
    except FileNotFoundError:
        raise UserError(f"{path} was not found; make it and the images with `dvc repro sample`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not describe how the images were sampled ({error}); run `dvc repro -f sample`"
        ) from None
    if n is not None and sampling.n != n:
        raise UserError(f"{path} describes {sampling.n} images, but {folder} has {n}; run `dvc repro -f sample`")
    return sampling


def write_image_set(
    folder: Path,
    images: Tensor,
    labels: Tensor | None,
    sampling: Sampling,
    captions: Sequence[str | None] | None = None,
) -> None:
    """Write uint8 images [N,C,H,W], their int64 labels [N] or captions, and how they were drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images.numpy())
    if labels is not None:
        np.save(folder / "labels.npy", labels.numpy())
    if captions is not None:
        (folder / CAPTIONS).write_text(json.dumps(list(captions), indent=0) + "\n", encoding="utf-8")
    sampling.write(folder / "sample.json")


def read_captions(folder: Path) -> list[str | None] | None:
    """Return the captions of the images in a folder, which this project wrote; None if they have none."""
    path = folder / CAPTIONS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
