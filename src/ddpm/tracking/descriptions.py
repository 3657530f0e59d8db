"""The descriptions of the registered model and of its versions, which MLflow's pages show."""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote

from ddpm.promotion.registry import Version
from ddpm.promotion.succession import Move, Ruling
from ddpm.reporting import model_page, version_page
from ddpm.reporting.history import in_order
from ddpm.tracking.stored_versions import registered, versions

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_CHARACTERS = 5000
"""The length of a description in MLflow's SQL stores."""
_MARK, _END = "<!-- Above: written by ddpm (", "). Text below this line is kept. -->"
_LEAST_CHARACTERS = 1000
PICTURE = "samples.png"
"""The file with a version's grid of samples, beside its model file."""
SMALL_PICTURE = "samples_small.png"
"""The same, small enough that MLflow's page shows the metrics below it without scrolling."""
SMALL_PIXELS = 320


def write(
    client: "MlflowClient",
    name: str,
    numbers: Iterable[str | None],
    moves: Iterable[Move],
    rulings: Iterable[Ruling],
) -> None:
    """Write the descriptions of the model and of these of its versions.

    A person's text below the mark is kept, and so is a page that a person changed, below the new one. A description
    that such text fills is left alone.
    """
    known = {version.number: version for version in versions(client, name)}
    model = registered(client, name)
    if (room := _room(model.description)) >= _LEAST_CHARACTERS:
        page = model_page.page(name, in_order(moves, rulings), known, limit=room)
        client.update_registered_model(name, description=_joined(model.description, page))
    for number in sorted(number for number in set(numbers) if number in known):
        version = known[number]
        before = client.get_model_version(name, number).description
        if (room := _room(before)) >= _LEAST_CHARACTERS:
            against = known.get(version.tags.get("decided_against", ""))
            page = version_page.page(version, against, picture=_picture(version), limit=room)
            client.update_model_version(name, number, description=_joined(before, page))


def _picture(version: Version) -> str | None:
    """Return the address of the version's grid, relative to MLflow's page; None if it has none."""
    if "picture" not in version.tags:
        return None
    return f"model-versions/get-artifact?name={quote(version.name)}&version={version.number}&path={SMALL_PICTURE}"


def _persons(before: str | None) -> str:
    """Return what a person wrote: the text below the mark, or all of it if the page above the mark was changed."""
    page, mark, rest = (before or "").partition(_MARK)
    digest, end, below = rest.partition(_END)
    own = mark and end and digest == _digest(page.strip())
    return below.strip() if own else (before or "").strip()


def _room(before: str | None) -> int:
    """Return the number of characters that are left for a page."""
    return MAX_CHARACTERS - len(_joined(before, ""))


def _joined(before: str | None, page: str) -> str:
    """Return the page, then a mark with its digest, then what a person wrote."""
    return f"{page}\n\n{_MARK}{_digest(page)}{_END}\n\n{_persons(before)}".strip()


def _digest(page: str) -> str:
    return hashlib.sha256(page.encode()).hexdigest()[:8]
