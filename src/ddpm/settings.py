"""The base of the sections of params.yaml: a closed, typed dataclass, and the checks that sections use."""

import dataclasses
import difflib
import json
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def section(cls: type[_T]) -> type[_T]:
    """Make a frozen, keyword-only dataclass for which pydantic refuses unknown keys, NaN and infinite numbers."""
    cls.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(cls)


def require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)


def require_positive(section: Any, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        require(value > 0, f"{name} is {value}, expected a number above 0")


def require_at_least(least: float, section: Any, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        require(value >= least, f"{name} is {value}, expected {least:g} or above")


def require_named(section: Any, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        require(value is None or value.strip() != "", f"{name} is {value!r}, expected a name")


def require_share(section: Any, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        require(0 <= value <= 1, f"{name} is {value}, expected a share between 0 and 1")


def as_dict(section: Any) -> dict[str, Any]:
    """Return a section as plain values (those of JSON), as a model file or a tracker stores them."""
    return json.loads(json.dumps(dataclasses.asdict(section)))


def sentence_of(error: Any, cls: type) -> str:
    """Return the first fault in a ValidationError of pydantic about a `cls`, as one sentence with key and remedy."""
    return "; ".join(_fault_and_remedy(_first(error), cls))


def fault_in(error: Any, cls: type) -> str:
    """Return the first fault in a ValidationError about a `cls`: the key, what was read, and what is expected."""
    return _fault_and_remedy(_first(error), cls)[0]


def _first(error: Any) -> Any:
    """Return the first fault, but an unknown key before all others, because a misspelt key also counts as missing."""
    faults = error.errors()
    return next((fault for fault in faults if fault["type"] == "unexpected_keyword_argument"), faults[0])


def _fault_and_remedy(error: Any, cls: type) -> list[str]:
    """Return what is wrong and, unless that says it already, what to do."""
    location = error["loc"]
    if error["type"] == "unexpected_keyword_argument":
        return [f"{'.'.join(map(str, location))} is not a known key", _remedy_of_unknown(cls, location)]
    is_missing = error["type"] in ("missing", "missing_argument")
    if is_missing and isinstance(location[-1], int):  # the list is too short
        is_missing, location = False, location[:-1]
    key, kind = _place(cls, location)
    if is_missing:
        explained = re.split(r"\.\d", key)[0]  # the reference explains a list as a whole
        return [f"{key} is missing", f"add it (`ddpm explain {explained}` says what it means)"]
    if error["type"] == "value_error":
        detail = str(error["ctx"]["error"])
        return [f"{key}: {detail}" if key else detail]
    expected = "a finite number" if error["type"] == "finite_number" else allowed_values(kind)
    return [f"{key} is {_AsYaml().repr(error['input'])}, expected {expected}"]


def _remedy_of_unknown(cls: type, location: Sequence[str | int]) -> str:
    *above, name = map(str, location)
    known = get_type_hints(cls)
    kind: Any = cls
    for part in above:
        kind = get_args(kind)[0] if get_origin(kind) is tuple else get_type_hints(kind).get(part)
        known = get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {'.'.join([*above, *nearest])}?" if nearest else "remove it or correct its spelling"


class _AsYaml(reprlib.Repr):
    """A short form of a value with the words of YAML."""

    def repr_bool(self, value: bool, level: int) -> str:
        return str(value).lower()

    def repr_NoneType(self, value: None, level: int) -> str:
        return "null"


def _place(cls: type, location: Sequence[str | int]) -> tuple[str, Any]:
    """Return the key of a place in the values of a `cls`, and the declared type.

    `location` is pydantic's, in which a union adds the name of one of its types.
    """
    keys: list[str] = []
    kind: Any = cls
    for part in location:
        for each in alternatives(kind):
            if isinstance(part, int) and get_origin(each) is tuple:
                kinds = get_args(each)
                keys, kind = [*keys, str(part)], kinds[0] if kinds[-1] is ... else kinds[part]
            elif dataclasses.is_dataclass(each) and part in (fields := get_type_hints(each)):
                keys, kind = [*keys, str(part)], fields[part]
    return ".".join(keys), kind


def allowed_values(kind: Any) -> str:
    """Return which values a declared type allows."""
    words: list[str] = []
    for each in alternatives(kind):
        if get_origin(each) is Literal:
            words += (value if isinstance(value, str) else _AsYaml().repr(value) for value in get_args(each))
        elif get_origin(each) is tuple:
            kinds = get_args(each)
            words.append("a list" if kinds[-1] is ... else f"a list of {len(kinds)} values")
        else:
            words += _WORDS.get(each, ["a mapping of keys and values"])
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


_WORDS = {
    int: ["a whole number"],
    float: ["a number"],
    str: ["text"],
    bool: ["true", "false"],
    type(None): ["null"],
}


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
