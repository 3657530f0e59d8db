"""A few images during a training, to look at, and their FID, for its curve.

Drawing them leaves the training's random state and results alone.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm.compute.hardware import Precision
from ddpm.degrading.pictures import Pictures
from ddpm.errors import UserError
from ddpm.generation.generate import evaluation_conditions, generate
from ddpm.generation.recipe import recipe_in
from ddpm.images import Images
from ddpm.measuring.features.extractor import Described, FeatureExtractor, describe
from ddpm.measuring.features.extractor_file import load_extractor
from ddpm.measuring.frechet import frechet_distance
from ddpm.model_file import Model
from ddpm.networks.settings import Method
from ddpm.sampling.settings import Sample
from ddpm.text.conditions import Captions

_MOST_REFERENCE_IMAGES = 10_000


class FewImages:
    """Draws a few images of a model in training, always of the same seed and labels, and measures their FID."""

    def __init__(
        self,
        n: int,
        sample: Sample,
        held_out: Images,
        *,
        extractor: FeatureExtractor,
        device: torch.device,
        precision: Precision,
        batch: int,
        method: Method = "diffusion",
        captions: Callable[[], Captions] | None = None,
    ) -> None:
        """n images are compared with held-out ones, uint8 [N,C,H,W]; `batch` are drawn at once, without a guide.

        `captions` returns those of the held-out images, for a model that knows captions.
        """
        rows = np.linspace(0, len(held_out) - 1, min(len(held_out), _MOST_REFERENCE_IMAGES)).round().astype(np.int64)
        unguided = sample if sample.guide is None else replace(sample, guide=None, guidance=1.0)
        self._n, self._seed, self._batch = n, sample.seed, batch
        self._recipe, self._extractor, self._device = recipe_in(unguided, precision, method), extractor, device
        conditions = partial(evaluation_conditions, n=n, seed=sample.seed, captions=captions, images=held_out)
        # Held-out captions are read for the first picture only.
        self._condition = lru_cache(maxsize=1)(partial(conditions, noise=sample.picture_noise))
        self._reference = self._described(held_out[rows], what="held-out")

    def draw(self, model: Model) -> tuple[Tensor, Tensor | Pictures | None]:
        """Return the images, uint8 [n,C,H,W], and their labels, int64 [n], or the pictures that the model was given;
        None for a model that has neither."""
        condition: Any = self._condition(model.spec)
        drawn = generate(model, self._recipe, n=self._n, seed=self._seed, condition=condition, batch=self._batch)
        return drawn, condition if model.spec.text is None else None

    def fid(self, images: Tensor) -> float:
        """Return the FID of images that `draw` returned."""
        return frechet_distance(self._described(images.numpy(), what="generated"), self._reference)

    def _described(self, images: np.ndarray, *, what: str) -> Described:
        return describe(self._extractor, images, device=self._device, progress=False, what=what)


def few_images(
    n: int,
    sample: Sample,
    held_out: Images,
    *,
    extractor: Path,
    device: torch.device,
    precision: Precision,
    batch: int,
    method: Method = "diffusion",
    captions: Callable[[], Captions] | None = None,
) -> FewImages | None:
    """Return what draws and measures n images, with the extractor in this file; None for n = 0.

    Prints why there is no FID, and returns None, if the extractor is missing or has as many features as there are
    images.
    """
    if not n:
        return None
    try:
        network = load_extractor(extractor, device)
    except UserError as error:
        print(f"no FID during the training: {error}")
        return None
    if min(n, len(held_out)) <= network.dim:
        print(
            f"no FID during the training: evaluate.during is {n} and there are {len(held_out)} held-out images, but "
            f"FID with {network.dim} features needs more than {network.dim} of both; raise during or set it to 0"
        )
        return None
    return FewImages(
        n,
        sample,
        held_out,
        extractor=network,
        device=device,
        precision=precision,
        batch=batch,
        method=method,
        captions=captions,
    )
