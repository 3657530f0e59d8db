"""The name of a run: what was tried, as the differences of its parameters from those of another run."""

from collections.abc import Mapping

Params = Mapping[str, str]
"""Parameters of a run as MLflow has them: `section.key`, with values as text."""

COMPARED = (
    "schedule.",
    "objective.",
    "network.",
    "train.",
    "sample.",
    "features.",
    "evaluate.",
    "dataset.content_hash",
)
"""Beginnings of the parameters on which a model and its metrics depend."""
ALONE = ("schedule.name", "objective.target", "train.images")
"""Parameters in the name of a run that has nothing to be compared with."""
MOST = 4
"""Largest number of differences in a name."""
_MAX_VALUE = 40
_PLAIN = {"schedule.name", "objective.target", "train.optimizer", "sample.sampler"}
"""Parameters whose value is understood without their name."""
_PHRASES = {
    "train.images": "{} images",
    "train.minutes": "{} minutes",
    "train.start": "from {}",
    "sample.steps": "{} steps",
    "dataset.content_hash": "other data",
}


def differences(params: Params, reference: Params) -> dict[str, tuple[str, str]]:
    """Return the compared parameters that differ, as (value in `reference`, value in `params`), in the file's order.

    A parameter that only one of the two has does not count: it is new, or was removed.
    """
    return {
        key: (reference[key], params[key])
        for key in _ordered(params)
        if key in reference and reference[key] != params[key]
    }


def name_of(params: Params, reference: Params | None) -> str:
    """Return the differences from `reference` in words, such as "linear, eps, 3k images"."""
    if reference is None:
        return ", ".join(_phrase(key, params[key]) for key in ALONE if key in params)
    found = differences(params, reference)
    if not found:
        return "same settings as the champion"
    phrases = [_phrase(key, params[key]) for key in found]
    rest = len(phrases) - MOST
    return ", ".join(phrases[:MOST]) + (f" and {rest} more" if rest > 0 else "")


def _ordered(params: Params) -> list[str]:
    return [key for beginning in COMPARED for key in params if key.startswith(beginning)]


def _phrase(key: str, value: str) -> str:
    value = _short(" ".join(value.split()))
    if key in _PLAIN:
        return value
    if key in _PHRASES:
        return _PHRASES[key].format(value)
    section, _, name = key.partition(".")
    words = name.replace("_", " ").replace(".", " ")
    return (
        f"{words} {value}" if section in ("schedule", "objective", "network", "train") else f"{section} {words} {value}"
    )


def _short(value: str) -> str:
    """Return a number of thousands or millions as 3k or 1.5M, and a long text cut."""
    if value.isdigit():
        n = int(value)
        for unit, letter in ((1_000_000, "M"), (1000, "k")):
            if n >= unit and n % (unit // 10) == 0:
                return f"{n / unit:g}{letter}"
    return value if len(value) <= _MAX_VALUE else f"{value[: _MAX_VALUE - 1]}…"
