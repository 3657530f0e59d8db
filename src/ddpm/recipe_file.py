"""The files in recipes/: the values of each, and what its header says about it.

A recipe is an overlay of params.yaml with the key `recipe`, the header. The header is data for people and for the
program, and is not written into params.yaml.
"""

import json
import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from ddpm import yaml_file
from ddpm.errors import UserError
from ddpm.settings import fault_in, require, require_named, section

FOLDER = Path("recipes")
"""In the project's folder, beside params.yaml."""
METHODS = FOLDER / "methods"
"""Recipes that choose the kind of model; those of FOLDER are for kinds of images."""
KEY = "recipe"

Limits = tuple[int | None, int | None]
"""The smallest and the largest number; null: no limit."""


@section
class Header:
    """What a recipe is for, which images it fits, and what it reached where it was measured (null: not measured)."""

    purpose: str
    channels: int | None
    """Of the images that it fits; null: grey and colour."""
    sizes: Limits
    """Height and width in pixels of the prepared images that it fits."""
    images: Limits
    """Number of prepared images that it fits, held-out ones included."""
    minutes: float | None
    """Length of the training."""
    fid: tuple[float, ...] | None
    """One for each seed of the training."""
    floor: float | None
    """FID of as many real training images, measured the same way."""
    seeds: tuple[int, ...] | None
    """Values of train.seed, in the order of `fid`."""
    machine: str | None
    command: str | None
    """Measures the FID again."""

    def __post_init__(self) -> None:
        require_named(self, "purpose", "machine", "command")
        require(self.channels in (1, 3, None), f"channels is {self.channels}, expected 1, 3 or null")
        for name in ("sizes", "images"):
            least, most = getattr(self, name)
            require(
                least is None or most is None or least <= most,
                f"{name} is [{least}, {most}], expected the smaller number first",
            )
        numbers = len(self.fid or ()), len(self.seeds or ())
        require(
            numbers[0] == numbers[1], f"fid and seeds have {numbers[0]} and {numbers[1]} values, expected one per seed"
        )

    def distance(self, *, channels: int, size: int, images: int) -> tuple[float, float, float]:
        """Return how far images are from those that the recipe fits: in channels, size and number; all 0: it fits."""
        return (
            float(self.channels not in (None, channels)),
            _factors_outside(self.sizes, size),
            _factors_outside(self.images, images),
        )

    def conditions(self) -> str:
        """Return which images it fits, for people."""
        kind = {1: "grey", 3: "colour", None: "grey or colour"}[self.channels]
        return ", ".join(text for text in (kind, _range(self.sizes, "pixels"), _range(self.images, "images")) if text)

    def results(self) -> str:
        """Return time and metrics, for people."""
        if self.minutes is None and self.fid is None:
            return "not measured"
        return ", ".join(
            text
            for text in (
                f"{self.minutes:g} minutes of training" if self.minutes is not None else "time not measured",
                self._fid(),
                f"on {self.machine}" if self.machine else "",
            )
            if text
        )

    def _fid(self) -> str:
        if not self.fid:
            return "FID not measured"
        spread = (
            f" ({min(self.fid):.3g} to {max(self.fid):.3g} with {len(self.fid)} seeds)" if len(self.fid) > 1 else ""
        )
        floor = "" if self.floor is None else f", floor {self.floor:.3g}"
        return f"FID {statistics.mean(self.fid):.3g}{spread}{floor}"


class Recipe(NamedTuple):
    """An overlay of params.yaml; `header` is None for one that says nothing about itself."""

    path: Path
    header: Header | None
    values: dict[str, Any]


def read(path: Path) -> Recipe:
    """Read a recipe. Raises UserError as `yaml_file.read` does, and for a header with unknown or missing keys."""
    values = yaml_file.read(path)
    return Recipe(path, _header(values.pop(KEY), path) if KEY in values else None, values)


def find(named: Path) -> Path:
    """Return the file that a person named: by its path or, in the project's folder, without `recipes/` and `.yaml`.

    Raises UserError with the recipes that there are.
    """
    if named.exists():
        return named
    short = FOLDER / f"{named}.yaml"
    if short.is_file():
        return short
    names = ", ".join(str(path) for folder in (FOLDER, METHODS) for path in sorted(folder.glob("*.yaml")))
    raise UserError(f"{named} was not found; " + (f"name one of {names}" if names else "name the file of a recipe"))


def with_headers(folder: Path = FOLDER) -> list[tuple[Path, Header]]:
    """Return the recipes in the folder that have a header, by name; none if there is no such folder.

    Raises UserError as `read` does.
    """
    found = [read(path) for path in sorted(folder.glob("*.yaml"))]
    return [(path, header) for path, header, _ in found if header is not None]


def by_distance(folder: Path = FOLDER, *, channels: int, size: int, images: int) -> list[tuple[Path, Header, bool]]:
    """Return the recipes in the folder, the nearest first, each with whether it fits the images.

    Raises UserError as `read` does.
    """
    ranked = sorted(
        (header.distance(channels=channels, size=size, images=images), path, header)
        for path, header in with_headers(folder)
    )
    return [(path, header, not any(distance)) for distance, path, header in ranked]


def _header(values: Any, path: Path) -> Header:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Header).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise UserError(f"{path}: {KEY}.{fault_in(error, Header)}; correct the recipe's header") from None


def _factors_outside(limits: Limits, number: int) -> float:
    """Return the binary logarithm of the factor by which the number is outside the limits; 0 within them."""
    least, most = limits
    if least is not None and number < least:
        return math.log2(least / max(number, 1))
    return math.log2(number / max(most, 1)) if most is not None and number > most else 0.0


def _range(limits: Limits, unit: str) -> str:
    least, most = limits
    if least is None and most is None:
        return ""
    if least is None or most is None:
        return f"at most {most:,} {unit}" if least is None else f"at least {least:,} {unit}"
    return f"{least:,} {unit}" if least == most else f"{least:,} to {most:,} {unit}"
