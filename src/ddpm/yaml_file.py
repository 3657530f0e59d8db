"""The plain values of a YAML file that anybody may have written: bounded before anything in it is expanded."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.errors import UserError

if TYPE_CHECKING:
    from ruamel.yaml import YAML
    from ruamel.yaml.nodes import Node

MAX_BYTES = 200_000
MAX_DEPTH = 20
"""Of mappings and lists within each other."""
MAX_VALUES = 10_000
"""Each one as often as an alias repeats it."""
MAX_INTEGER = 2**63 - 1

_TAG = "tag:yaml.org,2002:"
_PLAIN = {"str", "int", "float", "bool", "null"}
_ADVICE = {
    "timestamp": "a date; put it in quotes if it is a name",
    "binary": "binary data (!!binary); write a number or a text",
    "merge": "a merge (<<); write the merged keys out",
}


def read(path: Path) -> dict[str, Any]:
    """What the file says, as mappings, lists, texts, numbers (also NaN and infinity), booleans and nulls.

    Raises UserError, one sentence that names file and key: a file that is missing, too large, not UTF-8, no YAML or no
    mapping; a key twice or no text; a date, binary or another tag; an alias within itself; more than MAX_VALUES values
    after every alias is followed, or nested deeper than MAX_DEPTH; an integer of more than 64 bits; text that no file
    name or JSON may hold.
    """
    return parse(read_text(path), path)


def parse(text: str, path: Path) -> dict[str, Any]:
    """`read` for the text of a file that has been read. Raises UserError likewise, which names `path`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        deep = _first_too_deep(text)
        if deep:
            raise UserError(f"{path} is nested more than {MAX_DEPTH} deep in line {deep}; write it flatter")
        yaml = YAML(typ="safe")
        root = yaml.compose(text)
    except YAMLError as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    read = _Reader(path, yaml).value(root, "") if root is not None else None
    if not isinstance(read, dict):
        raise UserError(f"{path} is {'empty' if read is None else 'no mapping'}, expected sections of keys and values")
    return read


def read_text(path: Path) -> str:
    """The file as it is, line ends included.

    Raises UserError for a file that is missing, unreadable, no regular file, too large or not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no file; give a file of YAML")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path} was not found; run from the project's folder, where it stands") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); correct its permissions") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{path} has more than {MAX_BYTES} bytes; it is no file of settings")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} is not UTF-8 in line {line}; save it in that encoding") from None


def _first_too_deep(text: str) -> int | None:
    """Its line. By events, one after the other: all else that reads YAML calls itself once more for every level."""
    from ruamel.yaml import YAML
    from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

    depth = 0
    for event in YAML(typ="safe").parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            return int(event.start_mark.line) + 1
    return None


class _Reader:
    """Values of nodes. A node that aliases share is one object, so nothing is expanded before it is counted."""

    def __init__(self, path: Path, yaml: "YAML") -> None:
        self.path = path
        self.yaml = yaml
        self.values = 0
        self.around: list[Node] = []
        """The nodes that the present one stands in."""

    def value(self, node: "Node", key: str) -> Any:
        """Of the node at `key`."""
        from ruamel.yaml.nodes import ScalarNode

        self.values += 1
        if self.values > MAX_VALUES:
            raise self.error(key, f"repeats aliases until there are more than {MAX_VALUES} values", "write each out")
        if any(node is outer for outer in self.around):
            raise self.error(key, "is an alias of what it stands in", "write the value itself")
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
                raise self.error(inner, "is a key that is no text", "put it in quotes or correct it")
            if name in read:
                raise self.error(inner, "stands there twice", f"remove one, as that in line {_line(key_node)}")
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
            raise self.error(key, f"is {node.value[:40]!r}, which is no {tag}", "correct it") from None
        if isinstance(read, int) and abs(read) > MAX_INTEGER:
            raise self.error(key, "is an integer of more than 64 bits", "give a smaller one")
        if isinstance(read, str) and ("\0" in read or any(0xD800 <= ord(c) < 0xE000 for c in read)):
            raise self.error(key, "holds a character that no file name or address may have", "remove it")
        return read

    def error(self, key: str, what: str, remedy: str = "") -> UserError:
        return UserError(f"{self.path}: {key or 'the whole'} {what}{f'; {remedy}' if remedy else ''}")


def _line(node: "Node") -> int:
    return int(node.start_mark.line) + 1
