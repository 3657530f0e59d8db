"""Which recipe fits the images that were prepared."""

from pathlib import Path

from ddpm import overlay, recipe_file
from ddpm.errors import UserError

_NEAREST = 2
"""Recipes that are named where none fits."""


def advice(params: Path, *, channels: int, size: int, images: int) -> str | None:
    """Return one sentence: the recipe that fits, or the nearest ones; None without recipes in the working folder.

    A recipe that cannot be read gives a sentence too, instead of an error, because advice must not stop a stage.
    """
    described = f"{images:,} {'grey' if channels == 1 else 'colour'} images of {size}x{size}"
    try:
        ranked = recipe_file.by_distance(channels=channels, size=size, images=images)
        fitting = [path for path, _, fits in ranked if fits]
        for path in fitting:
            if not overlay.changes(params, path):
                return f"params.yaml has the values of {path}, which fits these images ({described})"
    except UserError as error:
        return f"no recipe is recommended, because {error}"
    if fitting:
        return f"{fitting[0]} fits these images ({described}): `ddpm configure {fitting[0]}`"
    if not ranked:
        return None
    nearest = " and ".join(f"{path} ({header.conditions()})" for path, header, _ in ranked[:_NEAREST])
    return f"no recipe fits these images ({described}); the nearest are {nearest}"
