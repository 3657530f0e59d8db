"""A batch encodes its captions once, not at every evaluation of the network, and no bit of an image changes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captioned import CAPTIONS, text_of_spec
from small_recipe import recipe

from ddpm import model_file
from ddpm.compute.hardware import Precision
from ddpm.generation.generate import generate
from ddpm.measuring.during_training import FewImages
from ddpm.measuring.features.classifier import Classifier
from ddpm.measuring.features.extractor import Extractor
from ddpm.model_file import Model
from ddpm.params import load as load_params
from ddpm.text import conditions

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")


@pytest.fixture
def model(tiny_model: Callable[..., str], tmp_path: Path) -> Model:
    tiny_model(tmp_path / "model.safetensors", **text_of_spec())
    return model_file.load(tmp_path / "model.safetensors")


class Encodings:
    """Counts how often the text encoder of a model runs."""

    def __init__(self, model: Model) -> None:
        self.n = 0
        model.network.get_submodule("text").register_forward_hook(self)

    def __call__(self, *_: object) -> None:
        self.n += 1


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(("guidance", "each"), [(1.0, 1), (2.0, 2)])
def test_captions_are_encoded_once_in_a_batch(
    model: Model, monkeypatch: pytest.MonkeyPatch, precision: Precision, guidance: float, each: int
) -> None:
    settings = replace(recipe(sampler="dpmpp_2m", steps=5, guidance=guidance), precision=precision)
    condition = conditions.of_texts(model.spec, [*CAPTIONS, None])

    def drawn() -> torch.Tensor:
        return generate(model, settings, n=5, seed=3, condition=condition, batch=3)

    if precision == "bf16":
        found = drawn()  # the hook would not be called in the copy of the network with bf16 weights
    else:
        encodings = Encodings(model)
        found = drawn()
        assert encodings.n == 2 * each, "two batches; with guidance also the empty text"
    monkeypatch.setattr(Model, "read_condition", lambda self, condition, n, precision: condition)
    assert torch.equal(drawn(), found)
    without = generate(model, settings, n=5, seed=3, condition=None, batch=3)
    assert not torch.equal(without, found), "the captions are read"


def test_a_guide_reads_the_captions_by_its_own_encoder(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    tiny_model(tmp_path / "model.safetensors", **text_of_spec())
    tiny_model(tmp_path / "guide.safetensors", seed=1, **text_of_spec())
    model, guide = (model_file.load(tmp_path / f"{name}.safetensors") for name in ("model", "guide"))
    counted = Encodings(model), Encodings(guide)
    settings = recipe(sampler="dpmpp_2m", steps=5, guidance=2.0, guide=guide.sha256)
    condition = conditions.of_texts(model.spec, CAPTIONS)
    found = generate(replace(model, guide=guide), settings, n=4, seed=0, condition=condition, batch=4)
    assert [each.n for each in counted] == [1, 1]
    itself = generate(replace(model, guide=replace(model, sha256=guide.sha256)), settings, n=4, seed=0,
                      condition=condition, batch=4)  # fmt: skip
    assert not torch.equal(found, itself)


def test_the_pictures_of_a_training_read_the_held_out_captions_once(model: Model) -> None:
    read: list[Any] = []
    extractor = Extractor(Classifier(channels=1, size=8, classes=3, dim=8).eval(), "classifier", 0.5)
    few = FewImages(
        16,
        replace(PARAMS.sample, steps=2),
        np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8),
        extractor=extractor,
        device=torch.device("cpu"),
        precision="float32",
        batch=16,
        captions=lambda: read.append(None) or list(CAPTIONS),
    )
    first, second = few.draw(model)[0], few.draw(replace(model))[0]
    assert torch.equal(first, second)
    assert len(read) == 1
