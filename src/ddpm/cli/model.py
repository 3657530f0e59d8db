"""The model that a command uses: a file, a registered version, or the champion."""

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.errors import UserError

if TYPE_CHECKING:
    from ddpm.model_file import Model
    from ddpm.promotion.registry import Version
    from ddpm.tracking.mlflow_registry import MlflowRegistry


def load(args: argparse.Namespace) -> "tuple[Model, str]":
    """Return the model of --model, of --version or else of the champion, and its name in messages.

    A model without a recipe (the settings of sampling) gets the recipe of the params.yaml in the working folder, if
    there is one.
    """
    if args.model:
        return load_file(args.model, args.device), str(args.model)
    found = find_version(args)
    return load_version(found, args.device), f"{found.name} version {found.number}"


def load_version(version: "Version", device: Any, registry: "MlflowRegistry | None" = None) -> "Model":
    """Return the model of a registered version, from this registry or else from `registry_of` its name.

    Raise UserError if its file is lost, was changed, cannot be read, or is not signed as signing.verify_key asks for.
    """
    with tempfile.TemporaryDirectory() as folder:
        return load_file((registry or registry_of(version.name)).download(version, Path(folder)), device)


def load_file(file: Path, device: Any) -> "Model":
    """Return the model of a file; one without a recipe gets that of the params.yaml in the working folder."""
    from ddpm.compute.hardware import choose_device
    from ddpm.generation.recipe import load_model

    model = load_model(file, choose_device(device))
    has_none = model.recipe is None and model.spec.method == "diffusion"
    return replace(model, recipe=_recipe_here()) if has_none else model


def _recipe_here() -> dict[str, Any] | None:
    """Return the recipe in the params.yaml of the working folder; None if there is no params.yaml."""
    if not os.path.exists("params.yaml"):
        return None
    from ddpm.generation.recipe import recipe_in
    from ddpm.params import load as load_params
    from ddpm.settings import as_dict

    params = load_params()
    return as_dict(recipe_in(params.sample, params.runtime.precision))


def find_version(args: argparse.Namespace) -> "Version":
    """Return the version of --version, else the champion. Raise UserError if there is none."""
    from ddpm.promotion.registry import champion, version
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    name = registered_name(args)
    if args.version:
        return version(MlflowRegistry(name), args.version)
    found = champion(MlflowRegistry(name))
    if found is None:
        raise UserError(
            f"{name} has no champion; choose a version of `ddpm versions` with --version, or name a file with --model"
        )
    return found


def registry_of(name: str) -> "MlflowRegistry":
    """Return the registry of this model; it gives out only versions that are signed as signing.verify_key asks for."""
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    return MlflowRegistry(name, verify_key=verify_key_here())


def verify_key_here() -> Path | None:
    """Return the file signing.verify_key of the params.yaml in the working folder; None without either."""
    if not os.path.exists("params.yaml"):
        return None
    from ddpm.params import load as load_params

    key = load_params().signing.verify_key
    return None if key is None else Path(key)


def registered_name(args: argparse.Namespace) -> str:
    """Return --name, else promote.name of the params.yaml in the working folder, else ddpm."""
    if args.name:
        return args.name
    if os.path.exists("params.yaml"):
        from ddpm.params import load as load_params

        return load_params().promote.name
    return "ddpm"
