"""Recipes for tests: what changes nothing, with a few changes."""

from typing import Any

from ddpm.generation.recipe import Recipe, neutral, recipe_from
from ddpm.settings import as_dict


def recipe(**changes: Any) -> Recipe:
    """DDIM in 5 steps, with these changes; those of a block are given as a dict, as in params.yaml."""
    plain = as_dict(neutral(sampler="ddim", steps=5))
    return recipe_from(plain | {k: plain[k] | v if isinstance(v, dict) else v for k, v in changes.items()})
