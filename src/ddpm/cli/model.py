"""Which model a command speaks of: a file, a version, or the champion of the registered name."""

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.errors import UserError

if TYPE_CHECKING:
    from ddpm.model_file import Model


def load(args: argparse.Namespace) -> "tuple[Model, str]":
    """The model of --model, --version or the champion, and what it is called."""
    with tempfile.TemporaryDirectory() as folder:
        file, called = (args.model, str(args.model)) if args.model else _registered_file(args, Path(folder))

        from ddpm import model_file
        from ddpm.runtime import choose_device

        return model_file.load(file, choose_device(args.device)), called


def _registered_file(args: argparse.Namespace, folder: Path) -> tuple[Path, str]:
    from ddpm.integrations import registry

    name = registered_name(args)
    if args.version:
        found = registry.version(name, args.version)
    else:
        champion = registry.champion(name)
        if champion is None:
            raise UserError(
                f"{name} has no champion; make one with `ddpm promote VERSION`, or name a file with --model"
            )
        found = champion
    return registry.download(found, folder), f"{name} version {found.number}"


def registered_name(args: argparse.Namespace) -> str:
    """The registered model: --name, or promote.name of the params.yaml here, or ddpm."""
    if args.name:
        return args.name
    if os.path.exists("params.yaml"):
        from ddpm import config

        return config.load().promote.name
    return "ddpm"
