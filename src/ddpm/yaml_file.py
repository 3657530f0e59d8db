"""Read plain values from an untrusted YAML file; size, depth and number of values are limited before expansion."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.errors import UserError

if TYPE_CHECKING:
    from ruamel.yaml import YAML
    from ruamel.yaml.nodes import Node

MAX_BYTES = 200_000
MAX_DEPTH = 20
"""Levels of nested mappings and lists."""
MAX_VALUES = 10_000
"""Values in a file; a value that aliases repeat counts every time."""
MAX_INTEGER = 2**63 - 1

_TAG = "tag:yaml.org,2002:"
_PLAIN = {"str", "int", "float", "bool", "null"}
_ADVICE = {
    "timestamp": "a date; put it in quotes if it is a name",
    "binary": "binary data (!!binary); write a number or a text",
    "merge": "a merge (<<); write the merged keys out",
}


def read(path: Path) -> dict[str, Any]:
    """Return the file's values: mappings, lists, texts, numbers (NaN and infinity included), booleans and nulls.

    Raises UserError, which names file and key, for a file that is missing, too large, not UTF-8, not YAML or not a
    mapping; a key that is duplicate or not a text; a date, binary data or another tag; an alias within itself; more
    than MAX_VALUES values after every alias is followed; nesting deeper than MAX_DEPTH; an integer of more than
    64 bits; and a text that no file name or JSON may contain.
    """
    return parse(read_text(path), path)


def parse(text: str, path: Path) -> dict[str, Any]:
    """Return the values of `text`, the content of the file at `path`. Raises UserError as `read` does."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        deep = _first_too_deep(text)
        if deep:
            raise UserError(f"{path} is nested more than {MAX_DEPTH} deep in line {deep}; write it flatter")
        yaml = YAML(typ="safe")
        root = yaml.compose(text)
    except YAMLError as error:
        raise UserError(f"{path} is not YAML{_fault(error)}") from None
    read = _Reader(path, yaml).value(root, "") if root is not None else None
    if not isinstance(read, dict):
        kind = "empty" if read is None else "not a mapping"
        raise UserError(f"{path} is {kind}, expected sections of keys and values")
    return read


def read_text(path: Path) -> str:
    """Return the file's text with its own line ends.

    Raises UserError for a file that is missing, unreadable, not a regular file, too large or not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a file; give a YAML file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path} was not found; run from the project's folder, which contains it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); correct its permissions") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{path} has more than {MAX_BYTES} bytes, too many for a file of settings; give another file")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} is not UTF-8 in line {line}; save it in that encoding") from None


_FAULTS = (
    (r"found character '\\t'|tab", "begins with a tab; indent with spaces"),
    ("mapping values are not allowed", "has a colon where a value stands: the line before has none after its key, this "
     "one is indented too deep, or a text with a colon has no quotes; correct that"),
    ("could not find expected ':'", "has no colon after its key; write `key: value`"),
    ("expected <block end>|did not find expected key", "is not indented like the keys beside it; use the same number "
     "of spaces"),
    ("quoted scalar", "opens a quote that is never closed; close it"),
    ("expected ',' or", "is within a list or mapping whose bracket is never closed; close it"),
    ("found character '[@`%]'|cannot start any token", "has a character that a text may not begin with; put the text "
     "in quotes"),
    ("undefined alias", "uses an alias (*name) that is not defined; write the value, or put the text in quotes"),
)  # fmt: skip
"""Patterns of the parser's words, and what they mean for the person who wrote the line."""


def _fault(error: Exception) -> str:
    """Return where the text is not YAML and what to do about it."""
    own = " ".join(str(getattr(error, "problem", None) or error).split())
    text = f"{own} {getattr(error, 'context', None) or ''}"
    # What is never ended is found further down, but begins at the context's mark.
    opened = re.search("quoted scalar|flow (sequence|mapping)|expected ':'", text)
    mark = getattr(error, "context_mark" if opened else "problem_mark", None)
    if mark is None:
        return f": {own}"
    words = next((words for pattern, words in _FAULTS if re.search(pattern, text)), None)
    place = f" in line {mark.line + 1}"
    return f"{place}, which {words}" if words else f"{place}, column {mark.column + 1}: {own}"


def _first_too_deep(text: str) -> int | None:
    """Return the line that is nested too deep. It reads events, since the other YAML readers recurse at every level."""
    from ruamel.yaml import YAML
    from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

    depth = 0
    for event in YAML(typ="safe").parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            return int(event.start_mark.line) + 1
    return None


class _Reader:
    """Converts nodes to values. Aliases share one node object, so values are counted before they are expanded."""

    def __init__(self, path: Path, yaml: "YAML") -> None:
        self.path = path
        self.yaml = yaml
        self.values = 0
        self.around: list[Node] = []
        """The nodes that contain the current one."""

    def value(self, node: "Node", key: str) -> Any:
        """Return the value of the node at `key`."""
        from ruamel.yaml.nodes import ScalarNode

        self.values += 1
        if self.values > MAX_VALUES:
            raise self.error(key, f"repeats aliases until there are more than {MAX_VALUES} values", "write each out")
        if any(node is outer for outer in self.around):
            raise self.error(key, "is an alias of a value that contains it", "write the value itself")
        if isinstance(node, ScalarNode):
            return self.scalar(node, key)
        tag = str(node.tag).removeprefix(_TAG)
        if tag not in ("map", "seq"):
            raise self.error(key, f"has the tag {tag}", "remove the tag")
        self.around.append(node)
        if tag == "map":
            read: Any = self.mapping(node, key)
        else:
            read = [self.value(each, f"{key}.{k}") for k, each in enumerate(node.value)]
        self.around.pop()
        return read

    def mapping(self, node: "Node", key: str) -> dict[str, Any]:
        from ruamel.yaml.nodes import ScalarNode

        read: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = key_node.value if isinstance(key_node, ScalarNode) else "[…]"
            inner = f"{key}.{name}".removeprefix(".")
            if key_node.tag == f"{_TAG}merge":
                raise self.error(inner, f"is {_ADVICE['merge']}")
            if key_node.tag != f"{_TAG}str":
                raise self.error(inner, "is a key that is not a text", "put it in quotes or correct it")
            if name in read:
                raise self.error(inner, "is given twice", f"remove one, such as that in line {_line(key_node)}")
            read[name] = self.value(value_node, inner)
        return read

    def scalar(self, node: "Node", key: str) -> Any:
        from ruamel.yaml.error import YAMLError

        tag = str(node.tag).removeprefix(_TAG)
        if tag in _ADVICE:
            raise self.error(key, f"is {_ADVICE[tag]}")
        if tag not in _PLAIN:
            raise self.error(key, f"has the tag {tag}", "remove the tag")
        try:
            read = self.yaml.constructor.construct_object(node)
        except (YAMLError, ValueError, LookupError):
            raise self.error(key, f"is {node.value[:40]!r}, which is not a valid {tag}", "correct it") from None
        if isinstance(read, int) and abs(read) > MAX_INTEGER:
            raise self.error(key, "is an integer of more than 64 bits", "give a smaller one")
        if isinstance(read, str) and ("\0" in read or any(0xD800 <= ord(c) < 0xE000 for c in read)):
            raise self.error(key, "contains a character that no file name or URL may have", "remove it")
        return read

    def error(self, key: str, what: str, remedy: str = "") -> UserError:
        return UserError(f"{self.path}: {key or 'the file'} {what}{f'; {remedy}' if remedy else ''}")


def _line(node: "Node") -> int:
    return int(node.start_mark.line) + 1
