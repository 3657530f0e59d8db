"""What training again with other seeds does to the metrics of a recipe: the content of reports/spread.json."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm.errors import UserError
from ddpm.measuring.metric_catalogue import JUDGED, Metric
from ddpm.promotion.registry import Version

FILE = Path("reports/spread.json")
_NORMAL = statistics.NormalDist().inv_cdf(0.975)
_NO_RECIPE = ("train.seed", "planned")
"""Keys of a model's origin in which two trainings of one recipe differ."""


@dataclass(frozen=True)
class Spread:
    """The spread of each metric over trainings of one recipe with other seeds."""

    trainings: int
    metrics: Mapping[str, Mapping[str, float]]
    """By name: `mean`, `std` (standard deviation over the trainings) and `drawing` (standard error of one training's
    value by other images and other reference images, from its interval)."""
    recipe: Mapping[str, Any]
    """As `recipe_of` returns it."""

    def of(self, metric: Metric) -> str:
        """Return the standard deviation as text; empty if the metric was not measured."""
        found = self.metrics.get(metric.name)
        if found is None:
            return ""
        return f"± {found['std']:.2%}" if metric.group == "copies" and metric.unit else f"± {found['std']:.2g}"

    def sentence(self, versions: Sequence[Version]) -> str:
        """Return what the numbers are, and which of the versions have another recipe, with the settings that differ."""
        parts = [
            f"Training again: standard deviation of each metric over {self.trainings} trainings with other seeds "
            "(`ddpm spread`)."
        ]
        for version in versions:
            records = version.records()
            own = recipe_of(version.origin(), records[0]["protocol"]) if records else {}
            differing = [key for key in own | dict(self.recipe) if own.get(key) != self.recipe.get(key)]
            if differing:
                named = ", ".join(differing[:_NAMED]) + (
                    f" and {len(differing) - _NAMED} more" * (len(differing) > _NAMED)
                )
                parts.append(f"Version {version.number} has another recipe ({named}), so its own may be another.")
        return " ".join(parts)


_NAMED = 5
"""Differing settings that are named."""


def read(path: Path = FILE) -> Spread | None:
    """Read reports/spread.json; None if it is missing. Raises UserError for a file of another form."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        (details,) = values["details"]
        metrics = {
            name: {key: float(number) for key, number in found.items()} for name, found in values["spread"].items()
        }
        if not isinstance(values["trainings"], int) or any("std" not in found for found in metrics.values()):
            raise ValueError("expected the number of trainings and a std of each metric")
        return Spread(values["trainings"], metrics, dict(details["recipe"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a spread of trainings ({error}); measure it again with `ddpm spread`") from None


def content(measured: Mapping[int, Mapping[str, Any]], origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of reports/spread.json from the records of at least two trainings by seed.

    `origin` is the lineage of one of the models. DVC shows the numbers as metrics, but nothing within lists.
    """
    records = list(measured.values())
    spread: dict[str, dict[str, float]] = {}
    for metric in JUDGED:
        values = [record.get(metric.name) for record in records]
        if any(value is None for value in values):
            continue
        numbers = [float(value) for value in values if value is not None]
        intervals = [record.get("interval", {}).get(metric.name) for record in records]
        errors = [(each["high"] - each["low"]) / 2 / _NORMAL for each in intervals if each]
        spread[metric.name] = {"mean": statistics.mean(numbers), "std": statistics.stdev(numbers)}
        if errors:
            spread[metric.name]["drawing"] = statistics.mean(errors)
    protocol = records[0]["protocol"]
    details = {
        "seeds": list(measured),
        "values": [{name: record[name] for name in spread} for record in records],
        "recipe": list(recipe_of(origin, protocol).items()),
        "protocol": protocol,
    }
    return {"trainings": len(records), "spread": spread, "details": [details]}


def recipe_of(origin: Mapping[str, Any], protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return what determines a model and its images but for the seed: settings by flat key, hashes of data and code.

    `origin` is that of a version or the lineage of a model file; `protocol` is that of its record.
    """
    flat = dict(_flat("", origin.get("params", {}))) | dict(_flat("sample.", protocol.get("drawing", {})))
    recipe = {key: value for key, value in flat.items() if not key.startswith(_NO_RECIPE)}
    return recipe | {key: origin.get(key) for key in ("data_hash", "code_hash")}


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", json.loads(json.dumps(value))  # as a file has it: lists, no tuples
