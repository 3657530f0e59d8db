"""Cascades: a model that enlarges the images of another one, its base.  Ho et al. 2022 (CDM).

Stage `sample` copies the base beside the images, from where stage `register` takes it into the file of the version.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from ddpm.errors import UserError
from ddpm.files import require_inside
from ddpm.generation.recipe import Recipe, load_model
from ddpm.model_file import Model
from ddpm.model_spec import fault_of_base

FILE = "base.safetensors"
"""Name of the copy in the folder of the images."""
REGISTERED = "models:/"
"""Begins the name of a registered version."""


def keep_base(base: Path, images: Path) -> None:
    """Copy the file of a base into the folder of the images."""
    images.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(base, images / FILE)


def require_base_inside(base: str, guides: Path) -> Path:
    """Return the file that sample.base names. Raises UserError for a file outside the folder of guides."""
    require_inside(Path(base), guides, key="sample.base", expected=f"a registered version ({REGISTERED}…) or a file")
    return Path(base)


def with_base(model: Model, recipe: Recipe, file: Path) -> tuple[Model, Recipe]:
    """Return the model with the base in this file, and the recipe with the base's sha256.

    Raises UserError as `read_base` does.
    """
    base = read_base(file, model)
    return replace(model, base=base), replace(recipe, base=base.sha256)


def read_base(file: Path | None, model: Model, *, sha256: str | None = None) -> Model:
    """Return the base in this file, which must have this sha256, on the device of the model.

    Raises UserError for a file that is missing or another one, for a base that does not fit the model, and for one that
    has no recipe, or a guide or a base itself.
    """
    if file is None or not file.is_file():
        raise UserError(f"the base of the cascade is not at {file}; make it again with `dvc repro -f sample`")
    base = load_model(file, next(model.network.parameters()).device)
    if sha256 is not None and base.sha256 != sha256:
        raise UserError(f"{file} is not the base with which the metrics were measured; run `dvc repro -f sample`")
    if (fault := fault_of_base(base.spec, model.spec)) is not None:
        raise UserError(f"sample.base {fault}; choose another base")
    if base.recipe is None:
        raise UserError("sample.base has no settings for sampling in its file; choose the file of a registered version")
    if base.guide is not None or base.base is not None:
        raise UserError("sample.base has a guide or a base itself, expected a model without; choose another version")
    return base
