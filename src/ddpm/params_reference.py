"""What each key of params.yaml means, which values it takes, and which stages a change reruns."""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import EllipsisType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from ddpm import yaml_file
from ddpm.errors import UserError
from ddpm.params import Params, validate
from ddpm.pipeline.dvc_yaml import params_of_stages
from ddpm.settings import allowed_values, alternatives

_PROBES: dict[type, tuple[Any, ...]] = {int: (-1, 0, 10**12), float: (-1.0, 0.0, 1.0, 1e12), str: ("", "?")}
"""Values at the ends of what a key of this type may take; the checks in settings.py name the allowed range."""


MISSING = object()


class Key(NamedTuple):
    """A key of params.yaml."""

    name: str
    """`section.key`, `section.block.key`, or the name of a key outside of the sections."""
    meaning: str
    """The docstring of the setting, on one line."""
    allowed: str
    """Type, choices and range, for people."""
    value: Any
    """The value in the given file; MISSING if it has none."""
    stages: tuple[str, ...]
    """The stages of dvc.yaml that a change of the value reruns, besides `configure`, which checks the whole file."""


def keys(params: Path) -> list[Key]:
    """Return all keys, section by section; of a file that is not valid, without their ranges.

    `params` is params.yaml beside dvc.yaml. Raises UserError as `yaml_file.read` and `params_of_stages` do.
    """
    values = yaml_file.read(params)
    stages = params_of_stages(params.with_name("dvc.yaml"))
    return [
        Key(
            ".".join(path),
            meaning,
            _allowed(values, path, kind),
            _value(values, path),
            tuple(stage for stage, read in stages.items() if _reads(read, path)),
        )
        for path, kind, meaning in _settings(Params, ())
    ]


def _reads(read: list[str], path: tuple[str, ...]) -> bool:
    return any(path[: len(parts)] == parts for parts in (tuple(key.split(".")) for key in read))


def _settings(cls: Any, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    """Yield path, declared type and meaning of every setting, without the blocks that contain others."""
    meanings = {name: text for base in reversed(cls.__mro__) for name, text in docstrings(base).items()}
    for name, kind in get_type_hints(cls).items():
        path = (*above, name)
        if dataclasses.is_dataclass(kind):
            yield from _settings(kind, path)
        else:
            yield path, kind, meanings.get(name, "")


@cache
def docstrings(cls: type) -> dict[str, str]:
    """Return the text under each attribute in the source of a dataclass, on one line."""
    if not dataclasses.is_dataclass(cls):
        return {}
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for line, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(below, ast.Expr):
            text = ast.literal_eval(below.value)
            found[line.target.id] = " ".join(text.split())
    return found


def _allowed(values: dict[str, Any], path: tuple[str, ...], kind: Any) -> str:
    """Return the declared type in words, narrowed by what the checks answer to values at its ends."""
    ranges: list[str] = []
    for probe in _probes(kind):
        try:
            validate(_with(values, path, probe), source="")
        except UserError as error:
            pattern = rf"(?:^|[ .]){re.escape(path[-1])} is .*?, expected (.*?)(?:; .*|, because .*|, since .*)?$"
            if (found := re.search(pattern, str(error))) and found[1] not in ranges:
                ranges.append(found[1])
    return in_words(kind, ranges)


def in_words(kind: Any, ranges: list[str]) -> str:
    """Return the values that a declared type allows within the ranges, which the checks name."""
    declared = allowed_values(kind)
    if not ranges:
        return f"a list of {_items(get_args(kind)[0])}" if declared == "a list" else declared
    text = ", ".join(ranges)
    if int in alternatives(kind) and "whole" not in text:
        text = text.replace("a number", "a whole number") if "a number" in text else f"a whole number, {text}"
    if type(None) in alternatives(kind) and "null" not in text:
        text = f"{text} or null"
    return text


def _items(kind: Any) -> str:
    """Return what the items of a list are."""
    return (
        f"mappings with {', '.join(get_type_hints(kind))}" if dataclasses.is_dataclass(kind) else allowed_values(kind)
    )


def _value(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(values, dict) or name not in values:
            return MISSING
        values = values[name]
    return values


def _probes(kind: Any) -> Iterator[Any]:
    for each in alternatives(kind):
        if get_origin(each) is tuple:
            inner, *rest = get_args(each)
            length = 1 if isinstance(rest[-1], EllipsisType) else 1 + len(rest)
            yield from ([probe] * length for probe in _probes(inner))
        else:
            yield from _PROBES.get(each, ())


def _with(values: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return a copy of nested values with one of them replaced."""
    first, *rest = path
    return {**values, first: _with(values.get(first) or {}, tuple(rest), value) if rest else value}
