"""Sampling and features of a stage in one process or several."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ddpm import model_file
from ddpm.compute.processes import joined, leads, together
from ddpm.generation.generate import generate_together
from ddpm.generation.recipe import neutral
from ddpm.measuring.features.extractor_training import train_extractor
from ddpm.params import load as load_params

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")


def made(model: str) -> dict[str, Tensor] | None:
    """Return images, and the weights of an extractor that was trained and standardised on other images."""
    device = torch.device("cpu")
    images = generate_together(
        model_file.load(model), replace(neutral(sampler="ddpm", steps=4), guidance=2.0, precision="float32"),
        n=13, condition=torch.arange(13) % 4, batch=3, seed=1,
    )  # fmt: skip
    random = np.random.default_rng(0)
    split = SimpleNamespace(images=random.integers(0, 256, (300, 1, 8, 8), dtype=np.uint8), labels=np.arange(300) % 3)
    settings = dataclasses.replace(PARAMS.features, images=40, batch_size=5, dim=16)
    extractor = train_extractor(
        split, split, kind="classifier", classes=3, settings=settings, device=device, progress=False, together=True
    )
    return None if images is None else {"images": images.clone()} | dict(extractor.network.state_dict())


def made_together(model: str, file: str) -> None:
    """Write the results of rank 0 as safetensors; called in several processes."""
    with joined(PARAMS.runtime):
        found = made(model)
        if leads():
            assert found is not None
            save_file(found, file)
        together()
