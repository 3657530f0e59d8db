"""Overlays of params.yaml, such as `recipes/*.yaml`: files that name only the values that differ."""

import copy
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ddpm import recipe_file, yaml_file
from ddpm.errors import UserError
from ddpm.files import write_text
from ddpm.params import Params, validate
from ddpm.params import load as load_params


class Change(NamedTuple):
    """A value of params.yaml that an overlay replaces."""

    keys: tuple[str, ...]
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{'.'.join(self.keys)}: {as_yaml(self.old)} -> {as_yaml(self.new)}"


def load(params: Path, overlay: Path | None = None) -> Params:
    """Return the parameters, with the overlay's values if one is given; no file changes.

    Raises UserError as `yaml_file.read` does for `params`, as `recipe_file.read` does for the overlay, for a key that
    `params` does not have, and if the result is not valid (`ddpm.params.load`).
    """
    if overlay is None:
        return load_params(params)
    return overlaid(yaml_file.read(params), params, recipe_file.read(overlay).values, overlay)[0]


def write(params: Path, overlay: Path) -> tuple[Params, list[Change]]:
    """Write the overlay's values into the file `params`, and return the result and what changed.

    Every other byte of the file stays: comments, order, quotes. The file changes as a whole or not at all. Raises
    UserError as `load` does, for a file that may not be written, and for a value that cannot be replaced where it
    stands, such as an alias.
    """
    return write_values(params, recipe_file.read(overlay).values, overlay)


def write_values(params: Path, new: dict[str, Any], source: Path | str) -> tuple[Params, list[Change]]:
    """Write nested values as `write` does; `source` names their origin in errors."""
    text = yaml_file.read_text(params)
    result, changes = overlaid(yaml_file.parse(text, params), params, new, source)
    if changes:
        _require_writable(params)
        for change in changes:
            text = replaced(text, change, params)
        write_text(params.resolve(), text)
    return result, changes


def changes(params: Path, overlay: Path) -> list[Change]:
    """Return what `write` would change; no file changes. Raises UserError as `load` does."""
    return overlaid(yaml_file.read(params), params, recipe_file.read(overlay).values, overlay)[1]


def as_yaml(value: Any) -> str:
    """The value on one line."""
    from ruamel.yaml import YAML

    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.width = True, 1_000_000
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(value, text)
    return text.getvalue().removesuffix("\n").removesuffix("\n...")


def overlaid(
    values: dict[str, Any], params: Path, new: dict[str, Any], source: Path | str
) -> tuple[Params, list[Change]]:
    """Return the parameters with nested `new` values in place of `values`, the content of `params`, and what differs.

    `source` names the origin of `new` in errors. Raises UserError as `load` does.
    """
    changes = list(changes_of(values, new, params, source))
    return validate(_with(values, changes), source=f"{params} with {source}"), changes


def changes_of(
    values: dict[str, Any], overlay: dict[str, Any], params: Path | str, source: Path | str, above: tuple[str, ...] = ()
) -> Iterator[Change]:
    """Raises UserError for a key that is not in `values`, and for a value in the place of keys or keys in its place."""
    for name, new in overlay.items():
        keys = (*above, name)
        key = ".".join(keys)
        if name not in values:
            raise UserError(f"{source}: {key} is no key of {params}; remove it or correct its spelling")
        old = values[name]
        if isinstance(old, dict) and isinstance(new, dict):
            yield from changes_of(old, new, params, source, keys)
        elif isinstance(old, dict):
            raise UserError(f"{source}: {key} is {as_yaml(new)}, but in {params} it has keys below it; name those")
        elif isinstance(new, dict) and old is not None:
            raise UserError(f"{source}: {key} has keys below it, but in {params} it is a value; give a value")
        elif old != new or isinstance(old, bool) != isinstance(new, bool):
            yield Change(keys, old, new)


def _with(values: dict[str, Any], changes: list[Change]) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    for change in changes:
        inner = changed
        for name in change.keys[:-1]:
            inner = inner[name]
        inner[change.keys[-1]] = change.new
    return changed


def _require_writable(params: Path) -> None:
    """A rename would replace a read-only file, too, so its permissions are asked first."""
    file = params.resolve()
    if not file.stat().st_mode & 0o222 or not os.access(file, os.W_OK):
        raise UserError(f"{params} is read-only; allow writing it (`chmod u+w {params}`) and configure again")
    if not os.access(file.parent, os.W_OK):
        raise UserError(f"{file.parent} may not be written, so {params} cannot be replaced; correct its permissions")


def replaced(text: str, change: Change, params: Path) -> str:
    """The text with one value replaced. A comment behind it keeps its column where there is room."""
    from ruamel.yaml import YAML

    node: Any = YAML(typ="safe", pure=True).compose(text)
    for name in change.keys:
        key, node = next(pair for pair in node.value if pair[0].value == name)
    start, end = node.start_mark.index, _end(node)
    new = _written(change.new, node)
    if start == end:  # nothing behind the colon is null
        start = end = text.index(":", key.end_mark.index) + 1
        new = f" {new}"
    before, old, after = text[:start], text[start:end], text[end:]
    comment = re.match(r" +(?=#)", after)
    if comment and "\n" not in old + new:
        after = " " * max(1, len(comment[0]) + len(old) - len(new)) + after[comment.end() :]
    made = before + new + after
    if not _differs_by(change, text, made, params):
        raise UserError(
            f"{params}: {'.'.join(change.keys)} cannot be replaced where it stands (an anchor, an alias or a value "
            f"over several lines); write {as_yaml(change.new)} there and configure again"
        )
    return made


def _end(node: Any) -> int:
    """Where the text of ruamel's node ends; a block's end mark stands behind the comments that follow."""
    if isinstance(node, tuple):  # the last key of a mapping, with its value
        return _end(node[1])
    if isinstance(node.value, list) and node.value and not node.flow_style:
        return _end(node.value[-1])
    return int(node.end_mark.index)


def _written(new: Any, node: Any) -> str:
    """A list in the place of a block list is one again."""
    if isinstance(new, list) and new and isinstance(node.value, list) and not node.flow_style:
        return ("\n" + " " * node.start_mark.column).join(f"- {as_yaml(item)}" for item in new)
    return as_yaml(new)


def _differs_by(change: Change, text: str, made: str, params: Path) -> bool:
    try:
        return yaml_file.parse(made, params) == _with(yaml_file.parse(text, params), [change])
    except UserError:
        return False
