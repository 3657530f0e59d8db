"""The base of the sections of params.yaml: a closed, typed dataclass, and the checks that sections use."""

import dataclasses
import json
import reprlib
from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

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


def sentence_of(error: Any) -> str:
    """Return an error of pydantic as one sentence that names the key and says what to do."""
    remedies = {
        "unexpected_keyword_argument": "; remove it or correct its spelling",
        "missing": "; add it (settings.py of its package explains it)",
        "missing_argument": "; add it (settings.py of its package explains it)",
    }
    return fault_in(error) + remedies.get(error["type"], "")


def fault_in(error: Any) -> str:
    """Return what is wrong according to an error of pydantic, beginning with the key."""
    key = ".".join(str(part) for part in error["loc"] if part not in ("literal['auto']", "int", "str"))
    if error["type"] == "unexpected_keyword_argument":
        return f"{key} is not a known key"
    if error["type"] in ("missing", "missing_argument"):
        return f"{key} is missing"
    if error["type"] == "value_error":
        detail = str(error["ctx"]["error"])
        return f"{key}: {detail}" if key else detail
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{key} is {reprlib.repr(error['input'])}, but its {message}"
