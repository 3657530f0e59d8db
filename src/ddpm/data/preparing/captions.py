"""Find the captions of images: in metadata files as Hugging Face's `imagefolder` reads them, or in text files.

metadata.jsonl   a line {"file_name": "a/0001.png", "text": "a red potion"} per image
metadata.csv     the same columns, named in its first row
0001.txt         the caption of 0001.png beside it

A name in a metadata file is relative to the folder of that file. A metadata file that names an image decides about it,
also against a text file.
"""

import csv
import io
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from ddpm.errors import UserError, on_one_line

JSONL, CSV = "metadata.jsonl", "metadata.csv"
MISSING, EMPTY, NOT_UTF8 = "missing", "empty", "not UTF-8"
"""Why an image has no caption."""
_MAX_BYTES = 1 << 30
"""A larger file of captions is refused."""
_MAX_TEXT_BYTES = 1 << 16
"""At most so many bytes of a text file are read as its caption, more than stage validate allows by default."""

Read = Callable[[str, int], bytes]
"""(path of a found file, number of bytes) -> at most so many of its first bytes. Raises OSError."""


def captions_of(paths: Sequence[str], others: Iterable[str], read: Read) -> list[str]:
    """Return for each image its caption, or the reason why it has none (`fault_of`).

    `paths` are the images and `others` all other files beside them, relative to the same folder with "/".
    Spaces around a caption are removed, and white space within it becomes single spaces.
    Raises UserError if there is no caption at all, or if a metadata file cannot be read, has no such columns, names no
    image that was found, or names one twice.
    """
    others = sorted(others)
    captions = _from_metadata(paths, [name for name in others if _name(name) in (JSONL, CSV)], read)
    texts = {_stem(name): name for name in others if name.lower().endswith(".txt")}
    for path in paths:
        text = texts.get(_stem(path))
        if path not in captions and text is not None:
            captions[path] = _decoded(_content(text, read, _MAX_TEXT_BYTES))
    if not captions:
        raise UserError(
            f"data.captions is true, but of {len(paths)} images none has a caption; put {JSONL} with file_name and "
            "text beside them, or NAME.txt beside NAME.png, or set data.captions to false"
        )
    return [captions.get(path, _fault(MISSING)) for path in paths]


def may_have_captions(path: str, stems: Container[str]) -> bool:
    """Whether captions are read from a file of this name, beside images whose paths without suffix are `stems`."""
    return _name(path) in (JSONL, CSV) or (path.lower().endswith(".txt") and _stem(path) in stems)


def stems_of(paths: Iterable[str]) -> set[str]:
    """Return the paths without their suffixes."""
    return set(map(_stem, paths))


def fault_of(caption: str) -> str | None:
    """Return why there is no caption: missing, empty, or not UTF-8; None for a caption."""
    return caption[1:] if caption.startswith("\0") else None


def _fault(reason: str) -> str:
    return f"\0{reason}"


def _from_metadata(paths: Sequence[str], files: Sequence[str], read: Read) -> dict[str, str]:
    found, known, from_file = set(paths), dict[str, str](), dict[str, str]()
    for file in files:
        folder = PurePosixPath(file).parent
        rows = _jsonl(file, read) if _name(file) == JSONL else _csv(file, read)
        unknown: list[str] = []
        for place, name, text in rows:
            path = str(folder / name)
            if path in known:
                raise UserError(
                    f"{place} has a second caption of {on_one_line(path)}, which {from_file[path]} has too; remove one"
                )
            if path not in found:
                unknown.append(on_one_line(path))
                continue
            known[path], from_file[path] = _cleaned(text), place
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise UserError(
                f"{file} has captions of {', '.join(unknown[:3])}{more}, which are no images of data.path; correct "
                "file_name (relative to the folder of this file), or remove these rows"
            )
    return known


def _jsonl(file: str, read: Read) -> Iterator[tuple[str, str, str]]:
    """Yield (file and line, file_name, text)."""
    for number, line in enumerate(io.StringIO(_text(file, read), newline=None), 1):  # a caption may contain U+2028
        place = f"{file}, line {number},"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield place, *_columns(place, row)


def _csv(file: str, read: Read) -> Iterator[tuple[str, str, str]]:
    """Yield (file and line, file_name, text)."""
    rows = csv.DictReader(io.StringIO(_text(file, read), newline=""), strict=True)
    try:
        _require_columns(file, rows.fieldnames or ())
        for row in rows:
            place = f"{file}, line {rows.line_num},"
            yield place, *_columns(place, row)
    except csv.Error as error:
        raise UserError(f"{file}, line {rows.line_num}, is no row of a CSV file ({error}); correct it") from None


def _require_columns(file: str, columns: Sequence[str]) -> None:
    if not {"file_name", "text"} <= set(columns):
        found = ", ".join(map(on_one_line, columns))
        raise UserError(f"{file} has the columns {found}, but not both file_name and text; name them so")


def _columns(place: str, row: object) -> tuple[str, str]:
    name, text = (row.get("file_name"), row.get("text", 0)) if isinstance(row, Mapping) else (None, None)
    if not isinstance(name, str) or not isinstance(text, str | None) or not name:
        raise UserError(f"{place} has no file_name and text as texts; write both, or remove the line")
    return name, text or ""


def _text(file: str, read: Read) -> str:
    content = _content(file, read, _MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise UserError(f"{file} has more than {_MAX_BYTES:,} bytes; divide it among the folders of the images")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 at byte {error.start}; save it as UTF-8") from None


def _content(file: str, read: Read, n: int) -> bytes:
    try:
        return read(file, n)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); correct its permissions") from None


def _decoded(content: bytes) -> str:
    try:
        return _cleaned(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        # The last character of a text that was cut off is no fault of the file.
        if len(content) == _MAX_TEXT_BYTES and error.start > len(content) - 4:
            return _cleaned(content[: error.start].decode("utf-8-sig"))
        return _fault(NOT_UTF8)


def _cleaned(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can contain
        return _fault(NOT_UTF8)
    return " ".join(text.replace("\0", " ").split()) or _fault(EMPTY)


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]
