"""The folder of guides, the weaker models that sampling may move away from: DVC compares its files by content."""

from dataclasses import replace
from pathlib import Path

from ddpm import model_file
from ddpm.files import require_inside
from ddpm.generation.batch import require_guide
from ddpm.generation.recipe import Recipe
from ddpm.model_file import Model


def with_guide(model: Model, recipe: Recipe, guides: Path) -> tuple[Model, Recipe]:
    """The model with the guide whose file the recipe names, and the recipe with the guide's sha256 in its place.

    Raises UserError for a file outside the folder, and for a guide that does not fit the model.
    """
    if recipe.guide is None:
        return model, recipe
    file = Path(recipe.guide)
    require_inside(file, guides, key="sample.guide", expected="a file")
    guide = model_file.load(file, next(model.network.parameters()).device)
    require_guide(guide, model, called=recipe.guide)
    return replace(model, guide=guide), replace(recipe, guide=guide.sha256)
