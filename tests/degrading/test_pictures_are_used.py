"""A model that is given pictures, trained by the stages as DVC runs them, restores what a request sends; one that
ignores its picture does not."""

import argparse
import base64
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from degraded import DEGRADATIONS, IMAGE, image_of_spec, squares
from PIL import Image
from ruamel.yaml import YAML

from ddpm import cli, model_file
from ddpm.data.reading.dataset import read_split
from ddpm.degrading.pictures import Pictures
from ddpm.errors import UserError
from ddpm.generation.generate import evaluation_pictures, generate
from ddpm.generation.recipe import load_model, recipe_in, recipe_of
from ddpm.measuring import bits_per_dim
from ddpm.model_file import Model
from ddpm.params import load as load_params
from ddpm.serving import picture_request, sample_request
from ddpm.serving.answering import Answering
from ddpm.settings import as_dict
from ddpm.stages import prepare, sample, train
from ddpm.stages.stage import Stage
from ddpm.text.conditions import of_held_out

ROOT = Path(__file__).parents[2]
TINY: dict[str, dict[str, Any]] = {
    "data": {"source": "folder", "labels": False},
    "network": {"width": 16, "multipliers": [1, 2], "blocks": 1, "attention": [], "head_channels": 16},
    "image": IMAGE,
    "train": {"images": 10_240, "batch_size": 64, "warmup_images": 640, "decay_images": 4000},
    "sample": {"images": 120},
    "evaluate": {"during": 0, "memorized_quantile": 0.01},
    "tracking": {"grid_every_images": 100_000},
    "runtime": {"progress": False},
}


def paths(**names: str) -> argparse.Namespace:
    return argparse.Namespace(**{name: Path(path) for name, path in names.items()})


def train_stage() -> Stage:
    return Stage(
        paths(
            prepared="data/prepared",
            starts="data/starts",
            extractor="extractor.safetensors",
            validation="validation.json",
            docs="docs",
            model="model.safetensors",
            run="run.json",
            curves="curves.csv",
            report="train.json",
            state=".state/train",
        )
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """A folder in which the stages prepare, train and sample have run."""
    folder = tmp_path_factory.mktemp("pictures")
    params = YAML().load(ROOT / "params.yaml") | {"condition": "image"}
    for section, changes in TINY.items():
        params[section].update(changes)
    YAML().dump(params, folder / "params.yaml")
    (folder / "data/raw").mkdir(parents=True)
    for k, image in enumerate(squares(400)):
        Image.fromarray(image[0]).save(folder / f"data/raw/{k:04}.png")
    (folder / "docs").mkdir()
    (folder / "validation.json").write_text("{}")
    for name in ("starts", "guides"):
        (folder / "data" / name).mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    shutil.copy(ROOT / "dvc.yaml", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare.main(Stage(paths(prepared="data/prepared", state=".state/prepare")))
        train.main(train_stage())
        sample.main(
            Stage(
                paths(
                    prepared="data/prepared",
                    model="model.safetensors",
                    guides="data/guides",
                    run="run.json",
                    images="generated",
                    grid="grid.png",
                    animation="animation.gif",
                    report="sample.json",
                )
            )
        )
        yield folder


@pytest.fixture(scope="module")
def model(project: Path) -> Model:
    loaded = model_file.load(project / "model.safetensors")
    params = load_params(project / "params.yaml")
    recipe = as_dict(recipe_in(params.sample, params.runtime.precision))
    model_file.save(project / "packed.safetensors", network=loaded.network, spec=loaded.spec, lineage={}, recipe=recipe)
    return load_model(project / "packed.safetensors")


@pytest.fixture(scope="module")
def pictures(project: Path, model: Model) -> Pictures:
    """Those of the evaluation."""
    images = read_split(project / "data/prepared", "test").images
    return evaluation_pictures(model.spec, n=120, seed=0, images=images, noise=0.0)


def errors(images: np.ndarray, pictures: Pictures) -> dict[str, float]:
    """Root mean square distance, in grey levels, from the images of which the pictures were made, by degradation."""
    originals = torch.stack([pictures.original(k) for k in range(len(images))]).numpy()
    squared = ((images.astype(float) - originals) ** 2).mean((1, 2, 3))
    return {kind: float(np.sqrt(squared[place :: len(DEGRADATIONS)].mean())) for place, kind in enumerate(DEGRADATIONS)}


def test_the_images_of_the_evaluation_are_what_their_pictures_were_made_of(project: Path, pictures: Pictures) -> None:
    found = errors(np.load(project / "generated/images.npy"), pictures)
    assert found["super-resolution"] < 25
    assert found["denoise"] < 25
    assert not (project / "generated/labels.npy").exists()
    with Image.open(project / "grid.png") as grid:
        assert grid.width > grid.height / 2, "given, drawn and original stand beside each other"


def test_a_model_that_ignores_its_picture_is_found_out(model: Model, pictures: Pictures) -> None:
    recipe = recipe_of(model)
    assert recipe is not None
    given = errors(generate(model, recipe, n=60, seed=0, condition=pictures, batch=60).numpy(), pictures)
    deaf = errors(generate(model, recipe, n=60, seed=0, condition=None, batch=60).numpy(), pictures)
    for kind in DEGRADATIONS:
        assert deaf[kind] > 1.5 * given[kind], kind
    others = errors(generate(model, recipe, n=60, seed=0, condition=pictures[3:63], batch=60).numpy(), pictures)
    assert others["super-resolution"] > 1.5 * given["super-resolution"], "the pictures of others"


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_a_request_draws_what_the_evaluation_draws_of_the_same_picture(
    model: Model, pictures: Pictures, kind: str
) -> None:
    place, recipe = DEGRADATIONS.index(kind), recipe_of(model)
    assert recipe is not None
    request = picture_request.complete(pictures.picture(place).fields() | {"seed": 5, "number": 3}, model)
    row = pictures[place : place + 1].expand(3, -1, -1, -1)
    assert torch.equal(
        picture_request.draw(model, request), generate(model, recipe, n=3, seed=5, condition=row, batch=2)
    )
    described = picture_request.described(request, model)
    assert (described["task"], described["steps"]) == (kind, recipe.steps)


def test_inpainting_keeps_every_known_pixel(model: Model, pictures: Pictures) -> None:
    picture = pictures.picture(1)
    assert picture.hole is not None
    drawn = picture_request.draw(model, picture_request.complete(picture.fields() | {"number": 4}, model))
    known = ~picture.hole
    assert (drawn[:, known] == picture.pixels[known]).all()
    assert len({tuple(image[picture.hole].tolist()) for image in drawn}) > 1, "the rest is drawn"


def test_the_served_model_answers_with_what_it_was_trained_for(model: Model, pictures: Pictures) -> None:
    answering = Answering(model, None)
    answering.warm_up()
    (answer,) = answering.answers([pictures.picture(0).fields() | {"seed": 2}])
    with Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))) as picture:
        assert picture.size == (8, 8)
    assert answer["task"] == "super-resolution"


def test_a_finished_training_is_the_same_training_again(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (project / "model.safetensors").read_bytes()
    train.main(train_stage())
    assert "continuing after 10240 images" in capsys.readouterr().out
    assert (project / "model.safetensors").read_bytes()[-1000:] == before[-1000:]


def encoded(size: int) -> str:
    file = io.BytesIO()
    Image.new("L", (size, size)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"task": "deblur", "image": encoded(8), "blur": 1.0},
            "task is deblur, but this model was trained for super-resolution by 2, inpaint and denoise of noise from 0 "
            "to 40; choose from these",
        ),
        (
            {"task": "super-resolution", "image": encoded(2)},
            "image is 2x2 pixels, but this model was trained for super-resolution by 2; send 4x4",
        ),
        ({"task": "super-resolution", "image": encoded(8)}, "image is 8x8 pixels, expected 4x4 to become 8x8"),
        ({"task": "denoise", "image": encoded(8), "noise": 60}, "noise is 60, expected 0 to 40, for which this model "),
        ({"task": "inpaint", "image": encoded(8), "mask": encoded(8), "jump": 3}, "'jump' is not a known field"),
        ({"task": "inpaint", "image": encoded(8), "mask": encoded(8)}, "mask has no white pixel, expected white where"),
        ({"task": "denoise", "image": encoded(8), "noise": 9, "label": 1}, "label is 1, but this model has no classes"),
        ({"task": "super-resolution"}, "image is missing; add a picture"),
    ],
)
def test_what_the_model_was_not_trained_for_is_refused(model: Model, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        picture_request.complete(fields, model)
    assert str(error.value).startswith(sentence)


def test_the_command_inpaints_without_the_options_of_other_models(project: Path, tmp_path: Path) -> None:
    for name, level in (("picture", 0), ("mask", 255)):
        Image.new("L", (8, 8), level).save(tmp_path / f"{name}.png")
    words = ["inpaint", "--model", str(project / "model.safetensors"), "--image", str(tmp_path / "picture.png")]
    assert cli.main([*words, "--mask", str(tmp_path / "mask.png"), "--out", str(tmp_path / "painted")]) == 0
    assert len(list((tmp_path / "painted").iterdir())) == 1


def test_a_request_without_a_picture_is_refused(model: Model) -> None:
    with pytest.raises(UserError) as error:
        sample_request.complete({"number": 1}, model)
    assert str(error.value) == (
        "this model draws from a picture, which the request has not; set task (super-resolution by 2, inpaint and "
        "denoise of noise from 0 to 40) and image"
    )


def test_guidance_moves_away_from_what_is_drawn_without_the_picture(model: Model, pictures: Pictures) -> None:
    fields = pictures.picture(0).fields() | {"seed": 1}
    one, more = (
        picture_request.draw(model, picture_request.complete(fields | {"guidance": scale}, model)) for scale in (1, 3)
    )
    assert not torch.equal(one, more)
    without = replace(model, spec=replace(model.spec, unconditional=False))
    with pytest.raises(UserError, match="guidance is 3, expected 1: this model was trained without label dropout"):
        picture_request.complete(fields | {"guidance": 3}, without)


def test_the_file_says_how_pictures_are_degraded(project: Path) -> None:
    spec = model_file.load(project / "model.safetensors").spec
    assert as_dict(spec)["image"] == IMAGE
    assert not spec.classes
    assert json.loads((project / "sample.json").read_text())["recipe"]["picture_noise"] == 0.0


def test_a_guide_must_be_given_the_same_pictures(tiny_model: Any, tmp_path: Path) -> None:
    from ddpm.generation.batch import require_guide

    tiny_model(tmp_path / "two.safetensors", **image_of_spec())
    tiny_model(tmp_path / "four.safetensors", **image_of_spec(factor=4))
    two, four = (model_file.load(tmp_path / f"{name}.safetensors") for name in ("two", "four"))
    with pytest.raises(
        UserError, match="the guide four is given pictures that are degraded otherwise than the model's"
    ):
        require_guide(four, two, called="four")


def test_held_out_images_are_likelier_given_their_own_pictures(model: Model, project: Path) -> None:
    held_out = read_split(project / "data/prepared", "test").images[:8]
    short = replace(model, spec=replace(model.spec, schedule=replace(model.spec.schedule, T=50)))
    own = of_held_out(short.spec, None, list, held_out)
    of_others = of_held_out(short.spec, None, list, held_out[::-1])
    bits, others = (
        bits_per_dim.measure(short, held_out, given, n=8, batch=8, progress=False).bound for given in (own, of_others)
    )
    assert bits is not None
    assert others is not None
    assert bits < others
