"""docs/mathematics.md names functions and pictures that are there."""

import importlib
import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "mathematics.md").read_text()


def test_every_function_that_it_names_exists() -> None:
    source = DOCS.parent / "src" / "ddpm"
    rooms = {path.stem: room for room in ("diffusion", "sampling") for path in (source / room).glob("[a-z]*.py")}
    named = re.findall(rf"`({'|'.join(rooms)})\.(\w+(?:\.\w+)?)`", PAGE)
    assert len(named) > 20
    for module, name in named:
        found = importlib.import_module(f"ddpm.{rooms[module]}.{module}")
        for part in name.split("."):
            found = getattr(found, part)


def test_every_picture_is_there_and_small() -> None:
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", PAGE)
    assert len(pictures) >= 6
    for picture in pictures:
        assert (DOCS / picture).stat().st_size < 200_000, picture
