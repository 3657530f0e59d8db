"""The recipe of a model: its settings for sampling. A model file may have one; images of an evaluation always do."""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ddpm import model_file
from ddpm.compute.settings import Precision
from ddpm.errors import UserError
from ddpm.model_file import WRONG, Model
from ddpm.networks.settings import Kind
from ddpm.sampling.catalogue import DIRECT
from ddpm.sampling.settings import Ddim, Ddpm, Drawing, Heun, Karras, Langevin, Sample, Unipc
from ddpm.settings import section, sentence_of


@section
class Recipe(Drawing):
    """All settings for sampling except the seed, labels and number of the images."""

    precision: Precision
    """`runtime.precision`; the device determines the meaning of auto."""


def recipe_in(sample: Sample, precision: Precision, method: Kind = "diffusion") -> Recipe:
    """Return the recipe in params.yaml; its guide is a file. Only diffusion has settings for sampling."""
    if method != "diffusion":
        return replace(DIRECTLY, precision=precision)
    return Recipe(**{field.name: getattr(sample, field.name) for field in fields(Drawing)}, precision=precision)


def neutral(*, sampler: str, steps: int) -> Recipe:
    """Return the recipe for a model without one: options that change nothing, or else the papers' choice."""
    return Recipe(
        sampler=sampler,
        steps=steps,
        ddpm=Ddpm(variance="small"),
        ddim=Ddim(eta=0.0),
        heun=Heun(churn=0.0, churn_range=(0.0, None), churn_noise=1.0),
        unipc=Unipc(order=2),
        langevin=Langevin(steps=1, snr=0.16),
        predictor_corrector=Langevin(steps=1, snr=0.16),
        time_grid="uniform",
        karras=Karras(rho=7.0),
        guidance=1.0,
        guide=None,
        guidance_interval=(0.0, None),
        guidance_rescale=0.0,
        threshold=None,
        precision="auto",
    )


DIRECTLY = neutral(sampler=DIRECT, steps=1)
"""The recipe of a model that draws in one evaluation."""


def recipe_of(model: Model) -> Recipe | None:
    """Return the recipe in the model's file, if any, or that of a model that needs none.

    Raise ValueError as `recipe_from` does.
    """
    if model.recipe is None:
        return None if model.spec.method == "diffusion" else DIRECTLY
    return recipe_from(model.recipe)


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with these plain values.

    Raise ValueError, one sentence that names the key, unless they have exactly the keys, types and ranges of
    params.yaml.
    """
    from pydantic import ValidationError

    try:
        return _reader().validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise ValueError(sentence_of(error, Recipe)) from None


@lru_cache(maxsize=1)
def _reader() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Recipe)


def load_model(path: Path | str, device: torch.device | str = "cpu") -> Model:
    """Load a model file and check that its recipe is valid for this model.

    Raise UserError as `model_file.load` does, and for an invalid recipe.
    """
    model = model_file.load(path, device)
    try:
        _require_recipe_fits(model)
    except WRONG as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{path} has no valid recipe in its header ({detail}); train or fetch it again, or read "
            "it with the version of this project that wrote it"
        ) from None
    return model


def _require_recipe_fits(model: Model) -> None:
    """Raise one of WRONG unless the recipe fits this model and its guide is the one in the file."""
    recipe = recipe_of(model)
    if recipe is None:
        return
    if model.spec.method == "diffusion":
        recipe.require_fits(model.spec.schedule, called="recipe.")
    if (recipe.sampler == DIRECT) != (model.spec.method != "diffusion"):
        raise ValueError(f"recipe.sampler is {recipe.sampler}, but method is {model.spec.method}")
    for key in ("guide", "base"):
        other: Model | None = getattr(model, key)
        there = None if other is None else other.sha256
        if getattr(recipe, key) != there:
            raise ValueError(f"recipe.{key} is {getattr(recipe, key)!r}, but the {key} in the file is {there!r}")
    if model.base is not None:
        _require_recipe_fits(model.base)
