"""The recipe in a model file is held to what params.yaml may say of the model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_recipe import recipe

from ddpm import model_file
from ddpm.errors import UserError
from ddpm.generation.image_set import Sampling, read_sampling
from ddpm.generation.recipe import load_model, recipe_of
from ddpm.settings import as_dict


def redescribed(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The file with its description changed in place by `change`."""
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()[model_file.FORMAT])
    change(described)
    save_file(load_file(path), path, {model_file.FORMAT: json.dumps(described)})
    return path


WRONG_RECIPES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a recipe of unknown words": lambda it: it["recipe"].update(mood="bright"),
    "a sampler that is none": lambda it: it["recipe"].update(sampler="guess"),
    "steps without end": lambda it: it["recipe"].update(steps=51),
    "walks without end": lambda it: it["recipe"].update(
        sampler="langevin", steps=40, langevin={"steps": 10**9, "snr": 0.1}
    ),
    "walks of another sampler without end": lambda it: it["recipe"]["predictor_corrector"].update(steps=10**9),
    "an option that is missing": lambda it: it["recipe"]["heun"].pop("churn"),
    "an option of another sampler": lambda it: it["recipe"]["ddim"].update(churn=1.0),
    "an interval that is none": lambda it: it["recipe"].update(guidance_interval=["low", None]),
    "a threshold that is not a number": lambda it: it["recipe"].update(threshold=float("nan")),
    "a precision that is none": lambda it: it["recipe"].update(precision="float8"),
    "a guide from this machine": lambda it: it["recipe"].update(guide="/etc/passwd"),
}


@pytest.mark.parametrize("name", WRONG_RECIPES)
def test_a_recipe_that_params_yaml_could_not_state_is_refused_in_one_sentence(
    name: str, tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    path = tmp_path / "m.safetensors"
    tiny_model(path)
    assert recipe_of(load_model(path)) is not None
    redescribed(path, WRONG_RECIPES[name])
    with pytest.raises(UserError, match="has no valid recipe in its header") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_a_recipe_guides_against_the_guide_in_its_file_alone(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    path = tmp_path / "m.safetensors"
    sha256 = tiny_model(tmp_path / "guide.safetensors", seed=1)
    guide = model_file.load(tmp_path / "guide.safetensors")
    tiny_model(path, recipe={"sampler": "ddim", "steps": 5, "guidance": 2.0, "guide": sha256}, guide=guide)
    assert recipe_of(load_model(path)).guide == sha256  # type: ignore[union-attr]
    redescribed(path, lambda described: described["guide"].update(sha256="a" * 64))
    with pytest.raises(UserError, match=r"recipe\.guide is .*, but the guide in the file is 'aaa"):
        load_model(path)


def test_sampling_is_read_from_beside_the_images(tmp_path: Path) -> None:
    sampling = Sampling(n=200, seed=3, recipe=recipe(sampler="heun", heun={"churn": 2.0, "churn_range": [0.1, None]}))
    sampling.write(tmp_path / "sample.json")
    assert read_sampling(tmp_path, n=200) == sampling


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "was not found"),
        ("{", "does not describe how"),
        ("{}", "'n'"),
        (json.dumps({"n": 200, "seed": 3, "recipe": {}}), "sampler is missing"),
        (json.dumps({"n": 7, "seed": 3, "recipe": as_dict(recipe())}), "describes 7 images, but .* has 200"),
    ],
)
def test_sampling_that_does_not_fit_the_images_is_refused(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "sample.json").write_text(content)
    with pytest.raises(UserError, match=said):
        read_sampling(tmp_path, n=200)
