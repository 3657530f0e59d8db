"""What a figure is worth: the figures of a model, and beside them how they were measured."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from ddpm.errors import UserError

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How figures were measured: those compare whose protocols differ in `drawing` alone (`promotion.gate`)."""

    drawing: dict[str, Any]
    """How the images were drawn, in plain values that only who drew them needs to understand."""
    seed: int
    """Of the images, and of the real ones for the floor."""
    n: int
    """Generated images."""
    reference_hash: str
    """sha256 of the held-out real images."""
    reference_n: int
    extractor: str
    extractor_hash: str
    torch_fidelity: str
    """Its version."""
    kid_subset_size: int
    kid_subsets: int
    neighbours: int
    """k of precision and recall."""
    memorized_quantile: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured of a set of images. None: not to be had; never NaN."""

    fid: float | None
    """Fréchet distance of the features to those of the held-out real images (Heusel et al. 2017); lower is better."""
    isc: float | None
    """Inception score (Salimans et al. 2016); 1 to the number of classes. None if the extractor knows no classes."""
    isc_std: float | None
    """Over 10 parts of the images."""
    kid: float | None
    """Squared MMD with a cubic kernel (Bińkowski et al. 2018), unbiased, so that it may fall below zero."""
    kid_std: float | None
    """Over the subsets; of a single subset, not of their mean."""
    precision: float | None
    """Share of the images within the real ones' manifold (Kynkäänniemi et al. 2019)."""
    recall: float | None
    """Share of the real images within the generated ones' manifold."""
    memorized_share: float | None
    """Share of the images nearer to a training image, in pixels, than nearly all held-out real ones are."""
    memorized_share_features: float | None
    """The same by distance of features."""
    memorized_share_shifted: float | None
    """The same in pixels, where a training image may be shifted by one pixel."""
    memorized_share_half: float | None
    """The same for the half of the image that is most like a training image's."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not math.isfinite(value):
                object.__setattr__(self, field.name, None)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How much the FID of `blocks` disjoint parts of `n` generated images each varies.

    A block has fewer images than the whole, so this is more than the spread of the whole set's FID.
    """

    fid: float | None
    """Standard deviation."""
    blocks: int
    n: int
    reason: str | None
    """Why there is none."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The figures of a model, with all that is needed to judge them."""

    figures: Figures
    spread: Spread
    floor: Figures
    """Of real training images, measured the same way; its memorized shares are those of held-out real images."""
    floor_n: int
    protocol: Protocol

    def to_json(self) -> dict[str, Any]:
        """As in reports/metrics.json: figures at the top, so that `dvc metrics` shows them by their names."""
        return {
            **asdict(self.figures),
            "fid_spread": self.spread.fid,
            "spread": {"blocks": self.spread.blocks, "n": self.spread.n, "reason": self.spread.reason},
            "floor": asdict(self.floor) | {"n": self.floor_n},
            "protocol": asdict(self.protocol),
        }

    def numbers(self) -> dict[str, float]:
        """The figures that there are, flat, as a tracker takes them: `fid`, …, `fid_spread`, `floor/fid`, …"""
        every = asdict(self.figures) | {"fid_spread": self.spread.fid}
        every |= {f"floor/{name}": value for name, value in asdict(self.floor).items()}
        return {name: value for name, value in every.items() if value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Record":
        """Raises UserError that names the key where the values are no such record."""
        try:
            return cls(
                figures=_from(Figures, values),
                spread=Spread(fid=values["fid_spread"], **values["spread"]),
                floor=_from(Figures, values["floor"]),
                floor_n=values["floor"]["n"],
                protocol=_from(Protocol, values["protocol"]),
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"the record of figures does not hold {error}; measure again with `dvc repro`") from None


def _from(cls: type[_T], values: Mapping[str, Any]) -> _T:
    """What the class has of these values. Raises KeyError for one that is missing."""
    return cls(**{field.name: values[field.name] for field in fields(cls)})  # type: ignore[arg-type]
