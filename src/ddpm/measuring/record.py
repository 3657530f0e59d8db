"""The record of a model: its metrics, the floor beside them, and the protocol by which both were measured."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from ddpm.errors import UserError
from ddpm.measuring.metric_catalogue import JUDGED

_T = TypeVar("_T")


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
    extractor: str
    extractor_hash: str
    torch_fidelity: str
    """Version of torch-fidelity."""
    kid_subset_size: int
    kid_subsets: int
    neighbours: int
    """k in precision and recall."""
    memorized_quantile: float


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The metrics of a set of images. None if a metric does not exist; never NaN."""

    fid: float | None
    """Fréchet distance of the features to those of the held-out real images (Heusel et al. 2017); lower is better."""
    inception_score: float | None
    """Inception score (Salimans et al. 2016); 1 to the number of classes. None if the extractor knows no classes."""
    inception_score_spread: float | None
    """Standard deviation over 10 parts of the images."""
    kid: float | None
    """Squared MMD with a cubic kernel (Bińkowski et al. 2018), unbiased, so it may be negative."""
    kid_spread: float | None
    """Standard deviation over the subsets: that of one subset, not of their mean."""
    precision: float | None
    """Share of the images inside the manifold of the real images (Kynkäänniemi et al. 2019)."""
    recall: float | None
    """Share of the real images inside the manifold of the generated images."""
    memorized_share: float | None
    """Share of the images that are nearer to a training image, in pixels, than nearly all held-out real images."""
    memorized_share_features: float | None
    """The same with the distance of features."""
    memorized_share_shifted: float | None
    """The same in pixels, with training images shifted by up to one pixel."""
    memorized_share_mirrored: float | None
    """The same in pixels, with training images and their mirror images, left to right."""
    memorized_share_half: float | None
    """The same for the half of the image that is most similar to that of a training image."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not math.isfinite(value):
                object.__setattr__(self, field.name, None)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The spread of the FID over `blocks` disjoint parts of `n` generated images each.

    A part has fewer images than the whole set, so its FID varies more.
    """

    fid: float | None
    """Standard deviation; None if there is none."""
    blocks: int
    n: int
    reason: str | None
    """The reason why there is no spread."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The metrics of a model, with everything needed to judge them."""

    metrics: Metrics
    spread: Spread
    floor: Metrics
    """The same metrics of real training images; the memorized shares are those of held-out real images."""
    floor_n: int
    protocol: Protocol

    def to_json(self) -> dict[str, Any]:
        """Return the content of reports/metrics.json, with the metrics at the top level for `dvc metrics`."""
        return {
            **asdict(self.metrics),
            "fid_spread": self.spread.fid,
            "spread": {"blocks": self.spread.blocks, "n": self.spread.n, "reason": self.spread.reason},
            "floor": asdict(self.floor) | {"n": self.floor_n},
            "protocol": asdict(self.protocol),
        }

    def numbers(self) -> dict[str, float]:
        """Return the metrics that exist as flat names for a tracker: `fid`, …, `fid_spread`, `fid_floor`, …"""
        every = asdict(self.metrics) | {"fid_spread": self.spread.fid}
        every |= {metric.floor: getattr(self.floor, metric.name) for metric in JUDGED if metric.logs_floor}
        return {name: value for name, value in every.items() if value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Record":
        """Read a record. Raises UserError that names a missing or unknown key."""
        try:
            return cls(
                metrics=_from(Metrics, values),
                spread=Spread(fid=values["fid_spread"], **values["spread"]),
                floor=_from(Metrics, values["floor"]),
                floor_n=values["floor"]["n"],
                protocol=_from(Protocol, values["protocol"]),
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"the record of metrics lacks {error}; measure again with `dvc repro`") from None


def _from(cls: type[_T], values: Mapping[str, Any]) -> _T:
    """Make an instance from the values of its fields. Raises KeyError for a missing one."""
    return cls(**{field.name: values[field.name] for field in fields(cls)})  # type: ignore[arg-type]
