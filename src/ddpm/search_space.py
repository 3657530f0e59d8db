"""The space of a search: a YAML file that names keys of params.yaml, each with a range or with choices."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm import overlay, yaml_file
from ddpm.errors import UserError

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

SECTIONS = ("method", "schedule", "objective", "network", "vae", "gan", "text", "image", "train", "sample")
"""What a search may vary: what determines a model, and how images are drawn from it."""
NOT_VARIED = {
    "train.seed": "would choose the luckiest seed, not better settings",
    "train.max_hours": "does not change the model",
    "train.start": "would start from a model that was trained on the images for validation",
    "sample.seed": "would choose the luckiest seed, not better settings",
    "sample.images": "would measure each trial another way",
    "sample.grid": "does not change the metrics",
}
"""Keys in SECTIONS that a search may not vary, with the reason."""
_RANGE = {"low", "high", "log", "step"}


@dataclass(frozen=True)
class Dimension:
    """A key of params.yaml and the values that a search may give it: `choices`, or a range if there are none."""

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    """Draw the logarithm uniformly."""
    step: float | None = None
    """Values are low, low + step, … up to high."""

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Any, ...]:
        """All choices, or the smallest and the largest value."""
        return self.choices or (self.low, self.high)

    def suggested(self, trial: "BaseTrial") -> Any:
        """Return the value of this trial, which the study keeps."""
        if self.choices:
            names = [overlay.as_yaml(choice) for choice in self.choices]  # the study takes texts and numbers only
            return self.choices[names.index(trial.suggest_categorical(self.key, names))]
        if self.is_whole:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(self.key, int(self.low), int(self.high), step=step, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def stored(self, value: Any) -> Any:
        """Return a value of params.yaml as the study keeps it; None if the search could not give it."""
        if self.choices:
            name = overlay.as_yaml(value)
            return name if name in map(overlay.as_yaml, self.choices) else None
        fits = isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high
        return value if fits and (self.step is None or _is_multiple(value - self.low, self.step)) else None


@dataclass(frozen=True)
class Space:
    """All dimensions of a search, in the order of the file."""

    dimensions: tuple[Dimension, ...]

    def suggested(self, trial: "BaseTrial") -> dict[str, Any]:
        """Return the values of this trial as an overlay of params.yaml."""
        return nested({dimension.key: dimension.suggested(trial) for dimension in self.dimensions})

    def present(self, values: dict[str, Any]) -> dict[str, Any] | None:
        """Return the present values by key as the study keeps them; None if the search could not give one of them.

        `values` is the content of params.yaml.
        """
        found = {
            each.key: each.stored(reduce(lambda inner, name: inner[name], each.key.split("."), values))
            for each in self.dimensions
        }
        return None if None in found.values() else found


def read(path: Path, params: Path) -> Space:
    """Read the space of a search.

    A leaf is a list of choices, or a mapping with `low` and `high` and, if wanted, `log: true` or `step`. Whole numbers
    at both ends give whole numbers. Raises UserError as `yaml_file.read` does, for a key that params.yaml does not have
    or that a search may not vary, for a leaf of another form, and for a value that params.yaml would refuse beside the
    first values of the other keys.
    """
    content = yaml_file.read(path)
    values = yaml_file.read(params)
    dimensions = tuple(_dimensions(content, path))
    if not dimensions:
        raise UserError(f"{path} names no key; give at least one, such as train: {{lr: {{low: 0.0005, high: 0.005}}}}")
    first = {dimension.key: dimension.ends[0] for dimension in dimensions}
    for dimension in dimensions:
        for value in dimension.ends:
            tried = nested(first | {dimension.key: value})
            overlay.overlaid(values, params, tried, f"{path} ({dimension.key}: {overlay.as_yaml(value)})")
    return Space(dimensions)


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Return {"section": {"key": value}} for {"section.key": value}."""
    made: dict[str, Any] = {}
    for key, value in values.items():
        *above, name = key.split(".")
        inner = made
        for part in above:
            inner = inner.setdefault(part, {})
        inner[name] = copy.deepcopy(value)
    return made


def _dimensions(content: dict[str, Any], path: Path, above: str = "") -> Iterator[Dimension]:
    for name, value in content.items():
        key = f"{above}{name}"
        if key.partition(".")[0] not in SECTIONS:
            raise UserError(f"{path}: {key} may not be searched; name keys of {', '.join(SECTIONS)}")
        if key in NOT_VARIED:
            raise UserError(f"{path}: a search over {key} {NOT_VARIED[key]}; remove it")
        if isinstance(value, dict) and not {"low", "high"} & value.keys():
            yield from _dimensions(value, path, f"{key}.")
        else:
            yield _dimension(key, value, path)


def _dimension(key: str, value: Any, path: Path) -> Dimension:
    if isinstance(value, list):
        if len(value) < 2 or len(set(map(overlay.as_yaml, value))) < len(value):
            raise UserError(f"{path}: {key} is {overlay.as_yaml(value)}, expected two or more different values")
        return Dimension(key, choices=tuple(value))
    if not isinstance(value, dict):
        raise UserError(
            f"{path}: {key} is {overlay.as_yaml(value)}, expected a list of values or {{low: …, high: …}}; give one"
        )
    if unknown := value.keys() - _RANGE:
        raise UserError(f"{path}: {key}.{min(unknown)} is not known; a range has {', '.join(sorted(_RANGE))}")
    low: Any = value.get("low")
    high: Any = value.get("high")
    log, step = value.get("log"), value.get("step")
    numbers = all(_is_number(number) for number in (low, high))
    if not numbers or not low < high:
        raise UserError(f"{path}: {key} is {overlay.as_yaml(value)}, expected two finite numbers, low below high")
    if log not in (None, True, False) or (log and low <= 0):
        raise UserError(
            f"{path}: {key}.log is {overlay.as_yaml(log)}, expected true or false, and low above 0 for true"
        )
    if step is not None and (not _is_number(step) or step <= 0 or log or not _is_multiple(high - low, step)):
        raise UserError(
            f"{path}: {key}.step is {overlay.as_yaml(step)}, expected a part of high - low, and no log beside it"
        )
    dimension = Dimension(key, low=low, high=high, log=bool(log), step=step)
    if dimension.is_whole and isinstance(step, float):
        raise UserError(f"{path}: {key}.step is {step}, expected a whole number as low and high are")
    return dimension


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_multiple(value: float, step: float) -> bool:
    return math.isclose(value / step, round(value / step), abs_tol=1e-9)
