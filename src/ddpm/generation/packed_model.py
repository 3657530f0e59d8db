"""The file of a registered version: the weights, the recipe that its metrics were measured with, and its guide."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm import model_file
from ddpm.errors import UserError
from ddpm.generation.recipe import recipe_from
from ddpm.model_file import Model


def pack(source: Path, target: Path, *, recipe: Mapping[str, Any], guides: Path) -> tuple[Model, str]:
    """Write the model of `source` with this recipe to `target`; return the model and the new file's sha256.

    Raises UserError if `guides` has no file with the sha256 of the recipe's guide.
    """
    model, sha256 = model_file.load(source), recipe_from(recipe).guide
    guide = None if sha256 is None else _find_guide(sha256, guides)
    described: dict[str, Any] = {
        "spec": model.spec,
        "lineage": model.lineage,
        "recipe": dict(recipe),
        "guide": guide,
        "codec": model.codec,
    }
    return model, model_file.save(target, network=model.network, **described)


def _find_guide(sha256: str, guides: Path) -> Model:
    """The guide with this content. Raises UserError if the folder has none."""
    for file in sorted(guides.rglob("*.safetensors")):
        with open(file, "rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() == sha256:
                return model_file.load(file)
    raise UserError(
        f"{guides} has no file with sha256 {sha256[:12]}…, the guide with which the metrics were measured; "
        "put it back, or measure again with `dvc repro`"
    )
