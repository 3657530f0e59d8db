"""The record of a model: its metrics, the floor beside them, and the protocol by which both were measured."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ddpm.errors import UserError
from ddpm.measuring.measured import Measured
from ddpm.measuring.metric_catalogue import HIGH, JUDGED, LOW

VERSION = 2
"""Form of reports/metrics.json: in 2 metrics have intervals."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How metrics were measured. Two records are comparable if only `drawing` differs (`promotion.gate`)."""

    drawing: dict[str, Any]
    """How the images were drawn, as plain values. Only the code that draws images interprets them."""
    seed: int
    """Seed of the generated images and of the choice of real images for the floor."""
    n: int
    """Number of generated images."""
    reference_hash: str
    """sha256 of the held-out real images."""
    reference_n: int
    extractor: dict[str, str]
    """Name, layer, resizing, dtype and sha256 of the feature extractor (`measuring.features.description`)."""
    second: dict[str, str] | None
    """The same of the second extractor; None if there is none."""
    torch_fidelity: str
    """Version of torch-fidelity."""
    kid_subset_size: int
    kid_subsets: int
    neighbours: int
    """k in precision, recall, density and coverage."""
    memorized_quantile: float


@dataclass(frozen=True)
class Interval:
    """Interval of 95 % for the value of a metric."""

    low: float
    high: float


@dataclass(frozen=True)
class Metrics:
    """The metrics of a set of images, which the catalogue (`JUDGED`) names and explains."""

    values: dict[str, float | None]
    """By name, of all metrics in the catalogue. None for one that does not exist; never NaN."""
    interval: dict[str, Interval]
    """By name, of the metrics that have one."""

    @classmethod
    def of(cls, measured: Mapping[str, Measured | None]) -> "Metrics":
        """Take values and intervals that are finite. Raises ValueError for a name that is not in the catalogue."""
        names = [metric.name for metric in JUDGED]
        if unknown := measured.keys() - set(names):
            raise ValueError(f"{', '.join(sorted(unknown))} not in the catalogue of metrics")
        found = {name: each for name in names if (each := measured.get(name)) is not None and math.isfinite(each.value)}
        return cls(
            values={name: found[name].value if name in found else None for name in names},
            interval={
                name: Interval(each.low, each.high)
                for name, each in found.items()
                if math.isfinite(each.low) and math.isfinite(each.high)
            },
        )

    def __getitem__(self, name: str) -> float | None:
        return self.values[name]

    def to_json(self) -> dict[str, Any]:
        """Return the values by name, and the intervals under `interval`."""
        return self.values | {"interval": {name: asdict(each) for name, each in self.interval.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Metrics":
        """Read what `to_json` returns. Raises KeyError for a metric of the catalogue that is missing."""
        return cls(
            values={metric.name: values[metric.name] for metric in JUDGED},
            interval={name: Interval(**each) for name, each in values["interval"].items()},
        )


@dataclass(frozen=True, kw_only=True)
class Record:
    """The metrics of a model, with everything needed to judge them."""

    metrics: Metrics
    floor: Metrics
    """The same metrics of real training images; the memorized shares are those of held-out real images."""
    floor_n: int
    protocol: Protocol
    reconstructed: Metrics | None = None
    """The metrics of the real training images of the floor after the autoencoder has encoded and decoded them: the
    floor of a model that draws latents. None for other models."""
    classes_left_out: int = 0
    """Classes that `classes_covered` leaves out, because the extractor names them on no held-out image."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of reports/metrics.json, with the metrics at the top level for `dvc metrics`."""
        return {
            "version": VERSION,
            **self.metrics.to_json(),
            **({"classes_left_out": self.classes_left_out} if self.classes_left_out else {}),
            "floor": self.floor.to_json() | {"n": self.floor_n},
            **({} if self.reconstructed is None else {"reconstructed": self.reconstructed.to_json()}),
            "protocol": asdict(self.protocol),
        }

    def numbers(self) -> dict[str, float]:
        """Return the metrics that exist as flat names for a tracker: `fid`, `fid_low`, `fid_high`, `fid_floor`, …"""
        every = dict(self.metrics.values)
        for name, interval in self.metrics.interval.items():
            every |= {f"{name}{LOW}": interval.low, f"{name}{HIGH}": interval.high}
        every |= {metric.floor: self.floor[metric.name] for metric in JUDGED if metric.logs_floor}
        if self.reconstructed is not None:
            every |= {f"{name}_reconstructed": self.reconstructed[name] for name in ("fid", "kid")}
        return {name: value for name, value in every.items() if value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Record":
        """Read a record. Raises UserError for another version of its form, and one that names a missing key."""
        if values.get("version") != VERSION:
            raise UserError(
                f"the record of metrics has the form {values.get('version', 1)}, expected {VERSION}, in which metrics "
                "have intervals; measure again with `dvc repro`"
            )
        try:
            return cls(
                metrics=Metrics.from_json(values),
                floor=Metrics.from_json(values["floor"]),
                floor_n=values["floor"]["n"],
                reconstructed=Metrics.from_json(values["reconstructed"]) if "reconstructed" in values else None,
                classes_left_out=values.get("classes_left_out", 0),
                protocol=Protocol(**{field.name: values["protocol"][field.name] for field in fields(Protocol)}),
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"the record of metrics lacks {error}; measure again with `dvc repro`") from None
