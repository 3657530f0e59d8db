"""Tiny untrained models in a real store, with what is kept to compare their answers with."""

import shutil
from pathlib import Path

import numpy as np
import torch
from shelf import REGISTRY, Shelf, record

from ddpm.canary import kept
from ddpm.generation.generate import balanced_labels, generate
from ddpm.generation.recipe import load_model, recipe_of
from ddpm.measuring.features import extractor_file
from ddpm.measuring.features.classifier import Classifier
from ddpm.measuring.features.extractor import Extractor
from ddpm.promotion.registry import Version

ROOT = Path(__file__).parents[1]
MEASURED = 200


def write_extractor(path: Path) -> Path:
    """An untrained extractor: other images have other features, which is all that a comparison needs."""
    torch.manual_seed(0)
    network = Classifier(channels=1, size=8, classes=4, dim=16)
    extractor_file.save(Extractor(network.eval().requires_grad_(False), "classifier", 0.5), path)
    return path


def keep(file: Path, path: Path, *, extractor: Path, inverted: bool) -> Path:
    """What stage `register` keeps of a model file and of images that were measured, or of their negatives."""
    model = load_model(file)
    recipe, labels = recipe_of(model), balanced_labels(MEASURED, 4, 5)
    assert recipe is not None
    measured = generate(model, recipe, n=MEASURED, seed=5, condition=labels, batch=64).numpy()
    measured = 255 - measured if inverted else measured
    kept.make(model, measured=measured, labels=np.asarray(labels), extractor=extractor).write(path)
    return path


def register(shelf: Shelf, seed: int, *, as_if: int | None = None) -> Version:
    """A version of the model with this seed; `as_if`: what is kept with it is of the model with another seed, and
    of the negatives of its images."""
    if not Path("params.yaml").exists():
        shutil.copy(ROOT / "params.yaml", "params.yaml")
    version = shelf.register(seed, record(10.0))
    other = seed if as_if is None else as_if
    shelf.model_id(other)
    extractor = write_extractor(Path("extractor.safetensors"))
    file = keep(shelf.file(other), Path("kept.safetensors"), extractor=extractor, inverted=as_if is not None)
    REGISTRY.keep_file(version.number, file)
    return version
