"""The file of a registered version: the weights, the recipe that its metrics were measured with, and its guide."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddpm import model_file
from ddpm.errors import UserError
from ddpm.generation import cascade
from ddpm.generation.recipe import recipe_from
from ddpm.model_file import Model


def pack(
    source: Path, target: Path, *, recipe: Mapping[str, Any], guides: Path, base: Path | None = None
) -> tuple[Model, str]:
    """Write the model of `source` with this recipe to `target`; return the model and the new file's sha256.

    `base` is the file of the recipe's base, if it has one. Raises UserError if `guides` has no file with the sha256 of
    the recipe's guide, or if `base` is another file than the recipe's.
    """
    model, sha256, wanted = model_file.load(source), recipe_from(recipe).guide, recipe_from(recipe).base
    guide = None if sha256 is None else _find_guide(sha256, guides)
    small = None if wanted is None else cascade.read_base(base, model, sha256=wanted)
    described: dict[str, Any] = {
        "spec": model.spec,
        "lineage": model.lineage,
        "recipe": dict(recipe),
        "guide": guide,
        "codec": model.codec,
        "base": small,
    }
    return replace(model, base=small), model_file.save(target, network=model.network, **described)


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
