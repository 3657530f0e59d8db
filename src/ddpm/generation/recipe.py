"""The recipe of a model: how its images are drawn. A model file may carry one; images of an evaluation always do."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ddpm import model_file
from ddpm.compute.settings import Precision
from ddpm.diffusion.settings import MAX_T
from ddpm.errors import UserError
from ddpm.files import write_json
from ddpm.model_file import WRONG, Model
from ddpm.sampling.settings import Ddim, Ddpm, Drawing, Heun, Karras, Langevin, Sample, Unipc
from ddpm.settings import as_dict, section, sentence_of


@section
class Recipe(Drawing):
    """All that decides how a model draws, but for seed, labels and number of the images."""

    precision: Precision
    """`runtime.precision`; a device decides what auto means."""


def recipe_in(sample: Sample, precision: Precision) -> Recipe:
    """The recipe that params.yaml states; its guide is a file."""
    return Recipe(**{field.name: getattr(sample, field.name) for field in fields(Drawing)}, precision=precision)


def neutral(*, sampler: str, steps: int) -> Recipe:
    """The recipe for a model that has none: beside sampler and steps, what changes nothing or is the papers' choice."""
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


def recipe_of(model: Model) -> Recipe | None:
    """The recipe that the model's file carries. Raises ValueError as `recipe_from` does."""
    return None if model.recipe is None else recipe_from(model.recipe)


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """The recipe of these plain values.

    Raises ValueError, one sentence that names the key, unless params.yaml could state them: the same keys, none
    missing, of the same types and in the same ranges.
    """
    from pydantic import ValidationError

    try:
        return _reader().validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise ValueError(sentence_of(error.errors()[0])) from None


@lru_cache(maxsize=1)
def _reader() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Recipe)


def load_model(path: Path | str, device: torch.device | str = "cpu") -> Model:
    """`model_file.load`, with a check that the recipe in the file is one, and of this model.

    Raises UserError as `model_file.load` does, and for a recipe that params.yaml could not state for this model.
    """
    model = model_file.load(path, device)
    try:
        _require_recipe_fits(model)
    except WRONG as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{path} describes in its header no way to draw its images ({detail}); train or fetch it again, or read "
            "it with the version of this project that wrote it"
        ) from None
    return model


def _require_recipe_fits(model: Model) -> None:
    """Raises one of WRONG unless the recipe is one that this model can follow, with no guide but the file's own."""
    recipe, schedule = recipe_of(model), model.spec.schedule
    if recipe is None:
        return
    most = schedule.T if schedule.time == "discrete" else MAX_T
    for key, steps in {
        "steps": recipe.steps,
        "langevin.steps": recipe.langevin.steps,
        "predictor_corrector.steps": recipe.predictor_corrector.steps,
    }.items():
        if steps > most:
            raise ValueError(f"recipe.{key} is {steps}, expected at most {most}")
    guide = None if model.guide is None else model.guide.sha256
    if recipe.guide != guide:
        raise ValueError(f"recipe.guide is {recipe.guide!r}, but the guide in the file is {guide!r}")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a set of images was drawn: the same model, labels and these give the same images."""

    n: int
    seed: int
    recipe: Recipe

    def write(self, path: Path) -> None:
        write_json(path, {"n": self.n, "seed": self.seed, "recipe": as_dict(self.recipe)})


def read_sampling(folder: Path, *, n: int) -> Sampling:
    """How the n images in a folder were drawn, from its sample.json.

    Raises UserError if the file is missing, incomplete, or describes another number of images.
    """
    path = folder / "sample.json"
    try:
        values = json.loads(path.read_text())
        sampling = Sampling(n=values["n"], seed=values["seed"], recipe=recipe_from(values["recipe"]))
    except FileNotFoundError:
        raise UserError(f"{path} was not found; `dvc repro sample` makes it with the images") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not say how the images were made ({error}); run `dvc repro -f sample`") from None
    if sampling.n != n:
        raise UserError(f"{path} describes {sampling.n} images, but {folder} holds {n}; run `dvc repro -f sample`")
    return sampling
