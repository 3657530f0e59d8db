"""The recipe in a model file is held to what params.yaml may say of the model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ddpm import model_file
from ddpm.errors import UserError
from ddpm.generation.recipe import carried, load_model


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
    "walks without end": lambda it: it["recipe"].update(sampler="langevin", langevin_steps=10**9),
    "walks of another sampler without end": lambda it: it["recipe"].update(langevin_steps=10**9),
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
    assert carried(load_model(path)) is not None
    redescribed(path, WRONG_RECIPES[name])
    with pytest.raises(UserError, match="describes in its header no way to draw") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_a_recipe_guides_against_the_guide_in_its_file_alone(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    path = tmp_path / "m.safetensors"
    sha256 = tiny_model(tmp_path / "guide.safetensors", seed=1)
    guide = model_file.load(tmp_path / "guide.safetensors")
    tiny_model(path, recipe={"sampler": "ddim", "steps": 5, "guidance": 2.0, "guide": sha256}, guide=guide)
    assert carried(load_model(path)).guide == sha256  # type: ignore[union-attr]
    redescribed(path, lambda described: described["guide"].update(sha256="a" * 64))
    with pytest.raises(UserError, match=r"recipe\.guide is .*, but the guide in the file is 'aaa"):
        load_model(path)
