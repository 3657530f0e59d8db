"""Stored samples, which are images of 256 levels: the interface for reading them, and the model's range.

Type, levels and range are defined only here.
"""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ddpm.errors import UserError

STORED = torch.uint8
TOP = 255
"""The highest level; the lowest is 0."""
LOW, HIGH = -1.0, 1.0
"""The ends of the model's range, to which the levels 0 and TOP are mapped."""
LEVELS_PER_UNIT = TOP / (HIGH - LOW)
LEVEL = 1 / LEVELS_PER_UNIT
"""Distance between two neighbouring levels in the model's range."""


class NotFiniteError(UserError):
    """Values of generated images are NaN or infinite, as after a sampler has diverged."""


class Images(Protocol):
    """uint8 [N,C,H,W]: an array, a memory-mapped file, or shards that are fetched when they are read.

    They may exceed memory: read some rows at a time, and all rows only where their number is bounded.
    """

    @property
    def shape(self) -> tuple[Any, ...]: ...

    @property
    def dtype(self) -> Any: ...

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        """Return one image [C,H,W] for an integer, [n,C,H,W] for a slice or an array of integers."""


@runtime_checkable
class Sharded(Images, Protocol):
    """Images in several files, which may be fetched from a store when they are read."""

    sizes: tuple[int, ...]
    """Images per shard."""

    def prefetch(self, shards: Iterable[int]) -> None:
        """Fetch these shards in the background; return at once."""

    def require_room(self, shards: int) -> None:
        """Raise UserError where this number of shards does not fit in the cache at a time."""


def to_model_range(samples: Tensor) -> Tensor:
    """Map images, uint8 of any shape, to float32 in [-1, 1] (Ho et al. 2020, Sec. 3.3).

    Latents, float16, are stored standardised and only become float32.
    """
    if samples.is_floating_point():
        return samples.to(torch.float32)
    return samples.to(torch.float32) / LEVELS_PER_UNIT - 1


def to_uint8(x: Tensor) -> Tensor:
    """Map float of any shape to uint8; values outside [-1, 1] are clamped, the others rounded to the nearest level.

    Raises NotFiniteError for NaN and infinite values, which would become black or white.
    """
    if not bool(x.isfinite().all()):
        raise NotFiniteError(
            "the generated images have values that are not finite numbers, so the sampler diverged; "
            "choose another sampler, more steps or less guidance"
        )
    return ((x.to(torch.float32) + 1) * LEVELS_PER_UNIT).round().clamp(0, TOP).to(torch.uint8)


def clipped(x: Tensor) -> Tensor:
    """Clip x to the model's range."""
    return x.clamp(LOW, HIGH)


def to_levels(x: Tensor) -> Tensor:
    """Map the model's range to 0..TOP, without rounding or clipping."""
    return (x + 1) / LEVEL


def from_levels(levels: Tensor) -> Tensor:
    """Invert `to_levels`."""
    return levels * LEVEL - 1
