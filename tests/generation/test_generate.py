"""Images from a model file, by every sampler and setting that params.yaml can name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from captioned import text_of_spec
from small_recipe import recipe
from torch import Tensor

from ddpm import model_file
from ddpm.diffusion.schedules import make_schedule
from ddpm.errors import UserError
from ddpm.generation.batch import require_guide
from ddpm.generation.generate import generate
from ddpm.generation.recipe import load_model
from ddpm.model_file import Model
from ddpm.sampling.catalogue import GRIDS, SAMPLERS
from ddpm.sampling.drawing import COUNTED, evaluations

LEARNED = {
    "target": "v",
    "weight": "simple",
    "min_snr_gamma": 5.0,
    "p2_gamma": 1.0,
    "sigma_data": 0.5,
    "learned_variance": True,
    "vlb_weight": 0.001,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder / "model.safetensors")
    tiny_model(folder / "weaker.safetensors", seed=1)
    tiny_model(folder / "learned.safetensors", objective=LEARNED)
    tiny_model(folder / "other.safetensors", classes=["a", "b"])
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return model_file.load(folder / "model.safetensors")


def made(model: Model, *, n: int = 3, batch: int = 3, **changes: Any) -> Tensor:
    drawn_by = recipe(**{"steps": 6, "precision": "float32"} | changes)
    return generate(model, drawn_by, n=n, seed=0, batch=batch, condition=torch.arange(n) % 4)


@pytest.mark.parametrize("time_grid", GRIDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_makes_an_image_that_no_batch_changes(model: Model, sampler: str, time_grid: str) -> None:
    images = made(model, sampler=sampler, time_grid=time_grid)
    assert images.shape == (3, 1, 8, 8)
    alone = made(model, n=2, batch=1, sampler=sampler, time_grid=time_grid)
    assert torch.equal(alone, images[:2])


def test_options_of_a_sampler_and_a_grid_that_are_not_chosen_change_nothing(model: Model) -> None:
    others = {"heun": {"churn": 3.0}, "unipc": {"order": 3}, "ddpm": {"variance": "large"}, "karras": {"rho": 2.0}}
    assert torch.equal(made(model), made(model, **others))


@pytest.mark.parametrize(
    "setting",
    [
        {"sampler": "ddpm", "ddpm": {"variance": "large"}},
        {"sampler": "ddim", "ddim": {"eta": 0.5}},
        {"sampler": "unipc", "unipc": {"order": 3}},
        {"sampler": "heun", "heun": {"churn": 3.0}},
        {"sampler": "heun", "heun": {"churn": 3.0, "churn_range": [0.5, 5.0]}},
        {"sampler": "heun", "heun": {"churn": 3.0, "churn_noise": 1.1}},
        {"time_grid": "karras", "karras": {"rho": 2.0}},
        {"sampler": "langevin", "langevin": {"snr": 0.4}},
        {"sampler": "langevin", "langevin": {"steps": 2}},
        {"sampler": "predictor_corrector", "predictor_corrector": {"snr": 0.4}},
        {"sampler": "predictor_corrector", "predictor_corrector": {"steps": 2}},
        {"guidance": 3.0, "guidance_interval": [0.5, 5.0]},
        {"guidance": 3.0, "guidance_rescale": 0.7},
        {"guidance": 3.0, "threshold": 0.8},
    ],
)
def test_every_setting_reaches_the_images(model: Model, setting: dict[str, Any]) -> None:
    *_, last = setting
    assert not torch.equal(made(model, **setting), made(model, **{k: v for k, v in setting.items() if k != last}))


def test_a_learned_variance_is_used_where_there_is_one_and_refused_where_there_is_none(
    folder: Path, model: Model
) -> None:
    learned = model_file.load(folder / "learned.safetensors")
    every = [
        made(learned, sampler="ddpm", ddpm={"variance": name}, guidance=2.0) for name in ("small", "large", "learned")
    ]
    assert not torch.equal(every[2], every[0])
    assert not torch.equal(every[2], every[1])
    with pytest.raises(UserError, match="this model was trained without"):
        made(model, sampler="ddpm", ddpm={"variance": "learned"})


def test_a_guide_changes_the_images_and_the_model_itself_as_guide_does_not(folder: Path, model: Model) -> None:
    plain = made(model)
    assert not torch.equal(made(model, guidance=2.0, guide=str(folder / "weaker.safetensors")), plain)
    assert torch.equal(made(model, guidance=2.0, guide=str(folder / "model.safetensors")), plain)


def test_a_guide_of_other_classes_and_a_missing_one_are_refused(folder: Path, model: Model) -> None:
    with pytest.raises(UserError, match="guide with a model of the same data"):
        made(model, guidance=2.0, guide=str(folder / "other.safetensors"))
    with pytest.raises(UserError, match="is not a model file"):
        made(model, guidance=2.0, guide=str(folder / "none.safetensors"))


@pytest.mark.parametrize(("steps", "expected"), [(10, 11), (20, 23)])
def test_guidance_within_an_interval_asks_twice_at_its_levels_only(steps: int, expected: int) -> None:
    chosen = recipe(sampler="dpmpp_2m", time_grid="karras", steps=steps, guidance=2.0, guidance_interval=[0.3, 2.0])
    assert evaluations(chosen, make_schedule("cosine", 1000)) == expected


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_evaluations_that_are_counted_are_those_of_the_network(folder: Path, sampler: str, guidance: float) -> None:
    model, seen = model_file.load(folder / "model.safetensors"), 0

    def count(*_: Any) -> None:
        nonlocal seen
        seen += 1

    model.network.register_forward_pre_hook(count)
    inner = {"steps": 2, "snr": 0.2}
    changes = {"guidance": guidance, "guidance_interval": [0.3, 2.0], "langevin": inner, "predictor_corrector": inner}
    chosen = recipe(sampler=sampler, steps=9, heun={"churn": 3.0}, precision="float32", **changes)
    generate(model, chosen, n=1, seed=0, batch=1, condition=torch.zeros(1, dtype=torch.long))
    counted = evaluations(chosen, model.schedule)
    assert seen <= counted
    assert guidance == 1 or seen == counted, "exact where guidance makes a difference"
    assert evaluations(replace(chosen, guidance=2.0, steps=COUNTED + 1), model.schedule) == 2 * (COUNTED + 1)


def test_a_guide_that_reads_captions_of_another_length_is_refused(tmp_path: Path, tiny_model: Any) -> None:
    for length in (8, 16):
        tiny_model(tmp_path / f"{length}.safetensors", **text_of_spec(length=length))
    short, long = (load_model(tmp_path / f"{length}.safetensors") for length in (8, 16))
    require_guide(short, short, called="short")
    with pytest.raises(
        UserError, match=r"reads captions otherwise than the model, by another tokenizer or text\.length"
    ):
        require_guide(short, long, called="short")
