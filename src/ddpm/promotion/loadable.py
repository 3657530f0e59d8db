"""The check that a version's model file is there and loads."""

import tempfile
from pathlib import Path

from ddpm.errors import UserError
from ddpm.promotion.registry import Registry, Version


def require_loadable(registry: Registry, version: Version) -> None:
    """Raise UserError unless the version's file is there, is the one that was registered, and loads."""
    with tempfile.TemporaryDirectory() as folder:
        require_loads(registry.download(version, Path(folder)), version)


def require_loads(file: Path, version: Version) -> None:
    """Raise UserError unless the file of this version loads."""
    from ddpm.generation.recipe import load_model

    try:
        load_model(file)
    except UserError as error:
        raise UserError(f"version {version.number} of {version.name} cannot be champion: {error}") from None
