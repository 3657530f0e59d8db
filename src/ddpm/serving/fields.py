"""Checks of the fields that every request has in common, and their bounds."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ddpm.errors import UserError
from ddpm.model_file import Model
from ddpm.text.conditions import require_short_enough

MAX_IMAGES = 64
"""Number of images in one call over HTTP."""
MAX_GUIDANCE = 20.0
MAX_SEED = 2**63 - 1
MAX_CHARACTERS = 10_000
"""Length of a text that is looked at; the model reads text.length tokens of it."""


def given_fields(fields: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Return the fields that are not null. Raises UserError for an unknown field."""
    for name in fields:
        if name not in known:
            raise UserError(f"{name!r} is not a known field, expected some of {', '.join(known)}")
    return {name: value for name, value in fields.items() if value is not None}


def whole(name: str, value: Any, low: int, high: int) -> int:
    """Return the value. Raises UserError unless it is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        upper = f"from {low} to {high}" if high < sys.maxsize else f"of {low} or more"
        raise UserError(f"{name} is {value!r}, expected a whole number {upper}")
    return value


def real(name: str, value: Any, low: float, high: float) -> float:
    """Return the value as a float. Raises UserError unless it is a number from `low` to `high`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # NaN and infinity are outside, too
        raise UserError(f"{name} is {value!r}, expected a number from {low:g} to {high:g}")
    return float(value)


def label_index(label: Any, model: Model) -> int | None:
    """Return the index of a class from its index or name; None remains None. Raises UserError for an unknown class."""
    if label is None:
        return None
    classes = model.asked.classes
    if not classes:
        remedy = "leave it out" if model.asked.text is None else "say what to draw with text"
        raise UserError(f"label is {label!r}, but this model has no classes; {remedy}")
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(classes):
        return label
    shown = ", ".join(classes[:20]) + (", …" if len(classes) > 20 else "")
    raise UserError(f"label is {label!r}, expected an index from 0 to {len(classes) - 1} or a class of: {shown}")


def text_of(text: Any, model: Model) -> str | None:
    """Return the text of a request; None remains None.

    Raises UserError unless the model knows captions and reads the whole text.
    """
    if text is None:
        return None
    if model.asked.text is None:
        raise UserError("text is set, but this model was not trained with captions; leave it out")
    if not isinstance(text, str):
        raise UserError(f"text is of type {type(text).__name__}, expected a text")
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"text has {len(text)} characters, expected up to {MAX_CHARACTERS}; shorten it")
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can contain
        raise UserError("text has a character that is not in Unicode; remove it") from None
    if not text.strip():
        require_both_predictions("text is empty", "it needs a text; write one", model)
    require_short_enough(model.asked, text)
    return text


def condition_field(model: Model) -> str:
    """Return the field that says what a model with a condition draws."""
    return "label" if model.asked.text is None else "text"


def require_both_predictions(problem: str, consequence: str, model: Model) -> None:
    """Raise UserError unless the model predicts both with and without a condition."""
    if not (model.asked.is_conditioned and model.asked.unconditional):
        lacking = "label dropout" if model.asked.is_conditioned else "classes"
        raise UserError(f"{problem}: this model was trained without {lacking}, so {consequence}")
