"""The recipe that a model file carries: how its images are drawn, checked as params.yaml is."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ddpm import model_file
from ddpm.compute.settings import Precision
from ddpm.diffusion.settings import MAX_T
from ddpm.errors import UserError
from ddpm.model_file import WRONG, Model
from ddpm.sampling.settings import Recipe, Sample
from ddpm.settings import sentence_of


def carried(model: Model) -> Recipe | None:
    """The recipe that the model brings along."""
    return None if model.recipe is None else Recipe(**model.recipe)


def load_model(path: Path | str, device: torch.device | str = "cpu") -> Model:
    """`model_file.load`, for whoever draws: the recipe in the file is one, and of this model.

    Raises UserError as `model_file.load` does, and for a recipe that params.yaml could not state of this model.
    """
    model = model_file.load(path, device)
    if model.recipe is not None:
        try:
            _require_recipe(model.recipe, model, guide=None if model.guide is None else model.guide.sha256)
        except WRONG as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(
                f"{path} describes in its header no way to draw its images ({said}); train or fetch it again, or read "
                "it with the version of this project that wrote it"
            ) from None
    return model


def _require_recipe(told: Mapping[str, Any], model: Model, *, guide: str | None) -> None:
    """Raises one of WRONG unless params.yaml could say so, too, of this model, with no guide but the file's own."""
    recipe, schedule = whole_recipe(told), model.spec.schedule
    most = schedule.T if schedule.time == "discrete" else MAX_T
    for name in ("steps", "langevin_steps"):
        if recipe[name] > most:
            raise ValueError(f"recipe.{name} is {recipe[name]}, expected at most {most}")
    if recipe["guide"] != guide:
        raise ValueError(f"recipe.guide is {recipe['guide']!r}, but the guide in the file is {guide!r}")


def whole_recipe(told: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of the `diffusion.settings.Recipe` of which somebody's file tells these.

    Raises TypeError for a field that is unknown or lacking, and ValueError, with the key, unless params.yaml may say so
    of how images are drawn: the kinds and bounds are those of `sample` and of `runtime.precision`.
    """
    from pydantic import TypeAdapter, ValidationError

    recipe = dataclasses.asdict(Recipe(**told))
    of_sample = {key: value for key, value in recipe.items() if key != "precision"}
    of_images = {"images": "auto", "grid": 1, "seed": 0}
    try:
        TypeAdapter(Sample).validate_json(json.dumps(of_sample | of_images), strict=True)
        TypeAdapter(Precision).validate_json(json.dumps(recipe["precision"]), strict=True)
    except ValidationError as error:
        raise ValueError(sentence_of(error.errors()[0])) from None
    return recipe
