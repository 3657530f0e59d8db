"""A model of captions, trained by the stages as DVC runs them, draws what a text says; one that ignores it does not."""

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captioned import CAPTIONS, draw_pictures, halves_right, text_of_spec
from ruamel.yaml import YAML

from ddpm import model_file
from ddpm.cli.plan import _spec
from ddpm.data.reading.dataset import read_facts
from ddpm.errors import UserError
from ddpm.generation.image_set import read_captions
from ddpm.generation.recipe import load_model, recipe_in
from ddpm.model_file import Model
from ddpm.params import load as load_params
from ddpm.serving import sample_request
from ddpm.serving.batching import draw_together
from ddpm.settings import as_dict
from ddpm.stages import prepare, sample, train
from ddpm.stages.stage import Stage
from ddpm.text.tokenizer import learn

ROOT = Path(__file__).parents[2]
TINY: dict[str, dict[str, Any]] = {
    "data": {"source": "folder", "captions": True, "labels": False},
    "network": {"width": 16, "multipliers": [1, 2], "blocks": 1, "attention": [4], "head_channels": 16},
    "text": {"vocabulary": 300, "length": 12, "width": 16, "layers": 1, "head_channels": 8},
    "train": {"images": 16_000, "batch_size": 64, "warmup_images": 640, "decay_images": 4000},
    "sample": {"images": 200, "guidance": 2.0},
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
    folder = tmp_path_factory.mktemp("words")
    params = YAML().load(ROOT / "params.yaml") | {"condition": "text"}
    for section, changes in TINY.items():
        params[section].update(changes)
    YAML().dump(params, folder / "params.yaml")
    draw_pictures(folder / "data/raw", 400)
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


def drawn(model: Model, text: str | None, n: int = 16, **fields: Any) -> np.ndarray:
    request = sample_request.complete({"number": n, "seed": 1, "text": text} | fields, model, max_number=n)
    return sample_request.draw(model, request).numpy()


def followed(model: Model, **fields: Any) -> float:
    return float(np.mean([halves_right(drawn(model, text, **fields), [text] * 16) for text in CAPTIONS]))


def test_the_images_of_the_evaluation_are_what_their_captions_say(project: Path) -> None:
    captions = read_captions(project / "generated")
    assert captions is not None
    assert set(captions) == set(CAPTIONS)
    assert halves_right(np.load(project / "generated/images.npy"), captions) > 0.9
    assert not (project / "generated/labels.npy").exists()


def test_a_request_draws_what_its_text_says(model: Model) -> None:
    assert model.spec.text is not None
    assert set(model.spec.text.examples) == set(CAPTIONS), "captions of held-out images"
    assert followed(model) > 0.9
    assert followed(model, guidance=1.0) > 0.9
    assert (drawn(model, CAPTIONS[1]) == drawn(model, CAPTIONS[1].upper())).all()


def test_a_model_that_ignores_its_words_is_found_out(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = replace(model, network=model.network)
    network: Any = deaf.network
    monkeypatch.setattr(network, "forward", lambda x, t, condition=None, _=None: type(network).forward(network, x, t))
    assert followed(deaf) < 0.6


def test_an_empty_text_is_no_caption_and_without_text_the_examples_take_turns(model: Model) -> None:
    without = drawn(model, "")
    shares = [halves_right(without, [caption] * 16) for caption in CAPTIONS]
    assert max(shares) < 0.9, "any of them"
    in_turn = drawn(model, None, 8)
    assert model.spec.text is not None
    assert halves_right(in_turn, [model.spec.text.examples[k % 4] for k in range(8)]) > 0.8
    described = sample_request.described(sample_request.complete({"number": 2}, model), model)
    assert described["texts"] == list(model.spec.text.examples[:2])


def test_a_finished_training_is_the_same_training_again(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (project / "model.safetensors").read_bytes()
    train.main(train_stage())
    assert "continuing after 16000 images" in capsys.readouterr().out, "tokens and examples are the same again"
    assert (project / "model.safetensors").read_bytes()[-1000:] == before[-1000:]


def test_a_plan_has_the_tokenizer_of_the_model_file_that_the_training_starts_from(
    project: Path, tiny_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    other = learn(["words of another model"], size=290)
    parent, params, facts = Path("data/starts/parent.safetensors"), load_params(), read_facts(Path("data/prepared"))
    tiny_model(parent, **text_of_spec() | {"tokenizer": as_dict(other)})
    started, from_champion = (
        replace(params, train=replace(params.train, start=each)) for each in (str(parent), "champion")
    )
    assert _spec(started, facts, Path("data/prepared")).tokenizer == other
    assert _spec(params, facts, Path("data/prepared")).tokenizer not in (None, other)
    assert capsys.readouterr().out == ""
    _spec(from_champion, facts, Path("data/prepared"))
    assert "a champion of captions brings its tokenizer; this plan learns one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"text": "a " * 40}, "text has 41 tokens, but this model reads 12; shorten it to about 29% of its length"),
        ({"text": 3}, "text is of type int, expected a text"),
        ({"text": "\ud800"}, "text has a character that is not in Unicode; remove it"),
        ({"text": "a" * 10_001}, "text has 10001 characters, expected up to 10000; shorten it"),
        ({"label": 1}, "label is 1, but this model has no classes; say what to draw with text"),
    ],
)
def test_what_no_model_of_captions_can_draw_is_refused(model: Model, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        sample_request.complete(fields, model)
    assert str(error.value) == sentence


def test_a_model_without_captions_refuses_a_text(tiny_model: Any, tmp_path: Path) -> None:
    tiny_model(tmp_path / "labels.safetensors")
    with pytest.raises(UserError, match="text is set, but this model was not trained with captions; leave it out"):
        sample_request.complete({"text": "a three"}, load_model(tmp_path / "labels.safetensors"))


def test_requests_of_several_texts_are_drawn_together_without_changing_a_bit(model: Model) -> None:
    fields = [{"text": CAPTIONS[k % 4], "seed": k, "number": 1 + k % 3} for k in range(5)]
    requests = [sample_request.complete(each, model) for each in fields]
    for together, request in zip(draw_together(model, requests), requests, strict=True):
        assert torch.equal(together, sample_request.draw(model, request))


def test_a_model_that_always_saw_a_caption_refuses_an_empty_text(tiny_model: Any, tmp_path: Path) -> None:
    tiny_model(tmp_path / "model.safetensors", unconditional=False, **text_of_spec())
    with pytest.raises(
        UserError, match="text is empty: this model was trained without label dropout, so it needs a text"
    ):
        sample_request.complete({"text": " "}, load_model(tmp_path / "model.safetensors"))
