"""A cascade: the model of a version enlarges what its base, in the same file, draws of a class."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from degraded import image_of_spec

from ddpm import model_file
from ddpm.degrading.pictures import Picture
from ddpm.errors import UserError
from ddpm.generation.cascade import read_base, with_base
from ddpm.generation.generate import generate
from ddpm.generation.packed_model import pack
from ddpm.generation.recipe import load_model, neutral, recipe_of
from ddpm.model_file import Model
from ddpm.serving import picture_request, sample_request
from ddpm.serving.answering import Answering, work
from ddpm.serving.batching import draw_together
from ddpm.serving.calls import GIVEN_UP, Call, RefusedError
from ddpm.settings import as_dict

STEPS = {"sampler": "ddim", "steps": 3}


@pytest.fixture
def files(tiny_model: Any, tmp_path: Path) -> Path:
    tiny_model(tmp_path / "base.safetensors", size=4, seed=1, recipe=STEPS)
    tiny_model(tmp_path / "large.safetensors", recipe=None, **image_of_spec())
    return tmp_path


def packed(files: Path, **recipe: Any) -> Model:
    """The cascade, read from the file of a version."""
    model = model_file.load(files / "large.safetensors")
    _, drawing = with_base(model, replace(neutral(**STEPS), **recipe), files / "base.safetensors")
    file = files / "cascade.safetensors"
    pack(files / "large.safetensors", file, recipe=as_dict(drawing), guides=files, base=files / "base.safetensors")
    return load_model(file)


def drawn(model: Model, **fields: Any) -> torch.Tensor:
    return sample_request.draw(model, sample_request.complete({"number": 4, "seed": 3} | fields, model))


@pytest.mark.parametrize("noise", [0.0, 20.0])
def test_a_cascade_enlarges_what_its_base_draws(files: Path, noise: float) -> None:
    model, base = packed(files, picture_noise=noise), load_model(files / "base.safetensors")
    assert model.base is not None
    assert (model.base.sha256, model.asked.classes) == (base.sha256, base.spec.classes)
    images, seen = drawn(model, label=2), []

    def note(network: Any, arguments: Any) -> None:
        seen.append(arguments[0].shape[-1])

    model.base.network.register_forward_pre_hook(note)
    model.network.register_forward_pre_hook(note)
    assert torch.equal(drawn(model, label=2), images), "the same request draws the same images"
    assert seen == [4, 4, 4, 8, 8, 8]
    other = drawn(model, label=1)
    assert not torch.equal(other, images), "the base is told the class"
    recipe = recipe_of(model)
    assert recipe is not None
    alone = generate(model, recipe, n=4, seed=3, condition=torch.full((4,), 2), batch=1)
    assert torch.equal(alone, images), "in batches of any size"


def test_the_pictures_are_those_of_the_base_and_its_noise_is_not_that_of_the_model(files: Path) -> None:
    model, given = packed(files), []
    network: Any = model.network
    handle = network.register_forward_pre_hook(lambda _, arguments: given.append(arguments))
    drawn(model, label=0, number=1)
    handle.remove()
    x_T, _, row, *_ = given[0]
    small = row[0, :1, ::2, ::2]
    assert torch.equal(row[0, :1, 1::2, 1::2], small), "each pixel is a square"
    assert -1 <= float(small.min()) <= float(small.max()) <= 1
    streams = x_T[0, 0].flatten()
    assert model.base is not None
    of_base: list[Any] = []
    handle = model.base.network.register_forward_pre_hook(lambda _, arguments: of_base.append(arguments))
    drawn(model, label=0, number=1)
    handle.remove()
    assert not torch.allclose(of_base[0][0].flatten(), streams[:16], atol=1e-3)


def test_requests_are_drawn_together_without_changing_a_bit(files: Path) -> None:
    model = packed(files, picture_noise=10.0)
    requests = [sample_request.complete({"label": k % 4, "seed": k, "number": 1 + k % 3}, model) for k in range(4)]
    for together, request in zip(draw_together(model, requests), requests, strict=True):
        assert torch.equal(together, sample_request.draw(model, request))


def test_a_cascade_still_restores_a_given_picture(files: Path) -> None:
    model = packed(files)
    small = torch.randint(256, (1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    fields = Picture("super-resolution", small).fields() | {"seed": 2, "number": 2}
    found = picture_request.draw(model, picture_request.complete(fields, model))
    large = load_model(files / "large.safetensors")
    recipe = replace(neutral(**STEPS), base=None)
    assert large.spec.image is not None
    row = Picture("super-resolution", small).condition(large.spec.image, noise=0.0, place=(2, 0)).expand(2, -1, -1, -1)
    assert torch.equal(found, generate(large, recipe, n=2, seed=2, condition=row, batch=2))
    with pytest.raises(UserError, match="label is 1, but this model has no classes"):
        picture_request.complete(fields | {"label": 1}, model)


def test_the_work_of_a_request_counts_the_base(files: Path) -> None:
    model = packed(files)
    assert work(sample_request.complete({"number": 2}, model), model) == 2 * 3 * (8**2 + 4**2)


def test_the_base_stops_when_its_client_goes(files: Path) -> None:
    model, call, evaluations = packed(files), Call(60), 0
    answers = Answering(model, None)

    def count(*_: Any) -> None:
        nonlocal evaluations
        evaluations += 1
        call.give_up()

    assert model.base is not None
    model.base.network.register_forward_pre_hook(count)
    with pytest.raises(RefusedError) as error:
        answers.answers([{}], call)
    assert (error.value.status, evaluations) == (GIVEN_UP, 1)


def test_what_cannot_be_a_cascade_is_refused(files: Path, tiny_model: Any) -> None:
    model = model_file.load(files / "large.safetensors")
    tiny_model(files / "eight.safetensors", size=8)
    tiny_model(files / "no recipe.safetensors", size=4, recipe=None)
    tiny_model(files / "inpaint.safetensors", recipe=None, **image_of_spec(degradations=["inpaint"]))
    for name, sentence in (
        ("eight", "sample.base draws 8x8 pixels (channels: 1), expected 4x4 (channels: 1); choose another base"),
        ("no recipe", "sample.base has no settings for sampling in its file; choose the file of a registered version"),
    ):
        with pytest.raises(UserError) as error:
            read_base(files / f"{name}.safetensors", model)
        assert str(error.value) == sentence
    with pytest.raises(UserError, match=r"sample\.base needs a model that is given pictures, trained for super-resol"):
        read_base(files / "base.safetensors", model_file.load(files / "inpaint.safetensors"))
    with pytest.raises(UserError, match="is not the base with which the metrics were measured"):
        read_base(files / "base.safetensors", model, sha256="0" * 64)
    with pytest.raises(UserError, match="guidance is set, but a cascade draws with that of its recipes; leave it out"):
        sample_request.complete({"guidance": 2.0}, packed(files))


def test_a_file_without_its_base_is_refused(files: Path) -> None:
    recipe = as_dict(replace(neutral(**STEPS), base="1" * 64))
    large = model_file.load(files / "large.safetensors")
    broken = files / "broken.safetensors"
    model_file.save(broken, network=large.network, spec=large.spec, lineage={}, recipe=recipe)
    with pytest.raises(UserError, match=r"recipe\.base is '1111"):
        load_model(broken)
