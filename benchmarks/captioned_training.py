"""A model of captions, trained without the pipeline on pictures that a benchmark has in memory."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ddpm.compute.hardware import choose_precision
from ddpm.model_file import Model
from ddpm.params import Params
from ddpm.text import conditions
from ddpm.text.tokenizer import learn
from ddpm.training import session
from ddpm.training.spec import sections_of, spec_of

UNNAMED = "of a benchmark"


def trained(pictures: np.ndarray, captions: Sequence[str | None], params: Params) -> Model:
    """Return the averaged model of uint8 pictures [N,C,H,W] with these captions, whatever `params.condition` is."""
    _, channels, size, _ = pictures.shape
    tokenizer = learn([each for each in captions if each is not None], size=params.text.vocabulary)
    sections = sections_of(params) | {"condition": "text"}
    spec = spec_of(channels=channels, size=size, classes=(), tokenizer=tokenizer, **sections)
    device = torch.device("cpu")
    training = session.begin(
        spec,
        pictures,
        conditions.of_images(spec, None, lambda: captions),
        data_hash=UNNAMED,
        code_hash=UNNAMED,
        settings=params.train,
        runtime=replace(params.runtime, resume="never"),
        device=device,
        precision=choose_precision(params.runtime.precision, device, size),
        state_folder=Path("no-checkpoints"),
    )
    for step in training.steps():
        if step.images_seen % (100 * params.train.batch_size) == 0:
            print(f"{step.images_seen:,} images, loss {float(step.loss):.4f}", flush=True)
    return Model(training.average(), spec, lineage={}, sha256="")
