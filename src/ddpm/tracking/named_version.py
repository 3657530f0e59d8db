"""A registered version by the name that MLflow gives it: models:/NAME@ALIAS or models:/NAME/NUMBER."""

import re
from pathlib import Path

from ddpm.errors import UserError
from ddpm.promotion.registry import Version
from ddpm.tracking.mlflow_registry import MlflowRegistry
from ddpm.tracking.store import connect

_NAME = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<number>\d+))")


def download(uri: str, folder: Path, *, verify_key: Path | None) -> Path:
    """Download the model file of a registered version into the folder, and return it.

    Raises UserError for another form, a version that does not exist, and as `MlflowRegistry.download` does.
    """
    found = _NAME.fullmatch(uri)
    if found is None:
        raise UserError(f"sample.base is {uri}, expected models:/NAME@ALIAS or models:/NAME/NUMBER; correct it")
    connect()
    registry = MlflowRegistry(found["name"], verify_key=verify_key)
    return registry.download(_version(registry, uri, found), folder)


def _version(registry: MlflowRegistry, uri: str, named: "re.Match[str]") -> Version:
    known = registry.versions()
    for version in known:
        if version.number == named["number"] or (named["alias"] is not None and named["alias"] in version.aliases):
            return version
    there = ", ".join(f"{each.number} {'@'.join(('', *each.aliases))}".strip() for each in known) or "none"
    raise UserError(f"sample.base is {uri}, which is not at {registry.place}; expected one of its versions: {there}")
