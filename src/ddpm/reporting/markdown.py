"""Markdown from text that anyone may have written: names of classes and files, reasons, tags."""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_IMAGE_PIXELS = 1024
"""Width and height of an embedded image, at most."""

_ACTIVE = re.compile(
    r"[\\`*~|\[\]<>&\"'$]"  # anywhere
    r"|(?<![^\W_])_|_(?![^\W_])"  # not within a word
    r"|://|www(?=\.)|@|:(?=\w+:)"  # links and emoji
    r"|^(?:#|[+-](?=\s|$)|[-=]{2,}|\d+[.)](?=\s|$))"  # headings and lists
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")
_ENDS_CODE = re.compile(r"[`|<>]")


@dataclass(frozen=True)
class Table:
    """A table of plain text, which a renderer escapes: `table` for Markdown."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def escaped(text: object) -> str:
    """Return the text as one line that every renderer of Markdown shows literally, also in a cell of a table.

    Characters with a meaning in Markdown or HTML become character references, which CommonMark, MLflow's and Prefect's
    renderers leave alone, while they differ in what a backslash escapes. Line breaks, control characters and changes of
    the direction of writing become spaces. Addresses do not become links.
    """
    return _ACTIVE.sub(lambda found: "".join(f"&#{ord(character)};" for character in found.group()), _line(text))


def code(text: object) -> str:
    """Return the text as code if it contains nothing that could end it, else escaped."""
    line = _line(text)
    return f"`{line}`" if line and not _ENDS_CODE.search(line) else escaped(line)


def table(content: Table, *, spaced: bool = False) -> str:
    """Return the table in Markdown, with all cells escaped; an empty string if it has no rows.

    `spaced` puts a space after each cell, for MLflow's pages, which show tables without borders and margins.
    """
    if not content.rows:
        return ""
    after = "&emsp;" if spaced else ""
    lines = [
        "| " + " | ".join(f"{escaped(cell)}{after}" for cell in row) + " |" for row in (content.head, *content.rows)
    ]
    return "\n".join([lines[0], f"|{' --- |' * len(content.head)}", *lines[1:]])


def bullets(sentences: Iterable[object]) -> str:
    """Return a list in Markdown, with all items escaped."""
    return "\n".join(f"- {escaped(sentence)}" for sentence in sentences)


def embedded(path: Path) -> str:
    """Return Markdown that contains the image itself, because a reader of the page may not have the file."""
    from PIL import Image

    written = io.BytesIO()
    with Image.open(path) as picture:
        picture.thumbnail((MAX_IMAGE_PIXELS, MAX_IMAGE_PIXELS))
        picture.save(written, format="PNG")
    data = base64.b64encode(written.getvalue()).decode()
    return f"![{escaped(path.name)}](data:image/png;base64,{data})\n\n{code(path)}"


def linked_image(title: str, address: str) -> str:
    """Return Markdown that shows the image at an address of this project; the title is escaped."""
    return f"![{escaped(title)}]({html.escape(address).replace(' ', '%20').replace(')', '%29')})"


def _line(text: object) -> str:
    return " ".join(_CONTROL.sub(" ", str(text)).split())
