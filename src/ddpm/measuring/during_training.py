"""FID of a few images during a training, for its curve. It leaves the training's random state and results alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ddpm.compute.hardware import Precision
from ddpm.errors import UserError
from ddpm.generation.generate import balanced_labels, generate
from ddpm.generation.recipe import recipe_in
from ddpm.images import Images
from ddpm.measuring.features.extractor import describe
from ddpm.measuring.fidelity import frechet_distance, load_extractor
from ddpm.measuring.metric_catalogue import CURVES
from ddpm.model_file import Model
from ddpm.sampling.settings import Sample

_MOST_REFERENCE_IMAGES = 10_000


def fid_of_few(
    n: int,
    sample: Sample,
    held_out: Images,
    *,
    extractor: Path,
    device: torch.device,
    precision: Precision,
    batch: int,
) -> Callable[[Model], dict[str, float]] | None:
    """Return a function that measures n images of a model against held-out images, uint8 [N,C,H,W]; None for n = 0.

    The images are drawn by `sample` without its guide, with the same seed and labels each time, `batch` at once. Prints
    why there is no such FID if the extractor is missing or has as many features as there are images.
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
    rows = np.linspace(0, len(held_out) - 1, min(len(held_out), _MOST_REFERENCE_IMAGES)).round().astype(np.int64)
    reference = describe(network, held_out[rows], device=device, progress=False, what="held-out")
    unguided = sample if sample.guide is None else replace(sample, guide=None, guidance=1.0)

    def measure(model: Model) -> dict[str, float]:
        classes = len(model.spec.classes)
        images = generate(
            model,
            recipe_in(unguided, precision),
            n=n,
            seed=sample.seed,
            condition=balanced_labels(n, classes, sample.seed) if classes else None,
            batch=batch,
        )
        made = describe(network, images.numpy(), device=device, progress=False, what="generated")
        return {f"{CURVES}fid": frechet_distance(made, reference)}

    return measure
