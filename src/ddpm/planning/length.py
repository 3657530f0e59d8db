"""The length of a training for a given time: planned once from the measured speed, and recorded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddpm.errors import UserError
from ddpm.files import write_json
from ddpm.training import finished
from ddpm.training.settings import Train

_LENGTHS = ("images", "warmup_images", "decay_images", "ema_halflife_images")
_RESERVE = 0.02
"""Share of the time that is left for checkpoints, pictures and the start."""


@dataclass(frozen=True)
class Planned:
    """A length that was planned for train.minutes."""

    minutes: float
    seconds_per_step: float
    """As measured when it was planned."""
    lengths: Mapping[str, int]
    """The settings of `train` that replace those of params.yaml."""

    def settings(self, train: Train) -> Train:
        """Return the same training with these lengths, and without minutes."""
        values: dict[str, Any] = dict(self.lengths)
        return replace(train, minutes=None, **values)

    def as_yaml(self) -> list[str]:
        """Return the lines of params.yaml that give the same training on any machine."""
        return ["train:", *(f"  {name}: {value}" for name, value in self.lengths.items()), "  minutes: null"]

    def described(self) -> dict[str, float]:
        """Return what the model's lineage and the tracker record besides the lengths."""
        return {"minutes": self.minutes, "seconds_per_step": self.seconds_per_step}


def fitted(settings: Train, images: int) -> Train:
    """Return the same training over `images`: decay and EMA keep their ratio to it, the warm-up keeps its length.

    The warm-up takes at most a tenth, and the decay at most what the warm-up leaves.
    """
    scale = images / settings.images
    warmup = min(settings.warmup_images, images // 10)
    return replace(
        settings,
        images=images,
        warmup_images=warmup,
        decay_images=min(round(settings.decay_images * scale), images - warmup),
        ema_halflife_images=max(1, round(settings.ema_halflife_images * scale)),
    )


def planned_for(settings: Train, *, seconds_per_step: float) -> Planned:
    """Return the length of whole steps that fit into train.minutes.

    Raises UserError if not even one step fits.
    """
    assert settings.minutes is not None
    steps = int(60 * settings.minutes * (1 - _RESERVE) / seconds_per_step)
    if steps < 1:
        raise UserError(
            f"train.minutes is {settings.minutes:g}, but one step of {settings.batch_size} images takes "
            f"{seconds_per_step:.3g} s; raise minutes, or lower train.batch_size, data.size or network.width"
        )
    length = fitted(settings, steps * settings.batch_size)
    lengths = {name: getattr(length, name) for name in _LENGTHS}
    return Planned(settings.minutes, seconds_per_step, lengths)


def record(folder: Path, planned: Planned) -> None:
    """Write the plan into the folder of the training, where it stays when the training has ended."""
    write_json(folder / finished.PLANNED, planned.described() | {"lengths": dict(planned.lengths)})


def recorded(folder: Path) -> Planned | None:
    """Return the plan of the training, if it has one. Raises UserError if the file is not a plan."""
    path = folder / finished.PLANNED
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        lengths = {name: values["lengths"][name] for name in _LENGTHS}
        _require_valid(**lengths)
        return Planned(float(values["minutes"]), float(values["seconds_per_step"]), lengths)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is not the planned length of a training ({type(error).__name__}: {error}); remove it, and the "
            "length is planned again"
        ) from None


def _require_valid(*, images: Any, warmup_images: Any, decay_images: Any, ema_halflife_images: Any) -> None:
    """Raise ValueError unless these are lengths as `planned_for` makes them."""
    lengths = (images, warmup_images, decay_images, ema_halflife_images)
    if not all(type(length) is int and 0 <= length < 2**53 for length in lengths):
        raise ValueError("a length is no whole number of images")
    if not (images >= max(1, warmup_images + decay_images) and ema_halflife_images >= 1):
        raise ValueError("the lengths contradict each other")
