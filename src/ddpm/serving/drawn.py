"""What the served model drew, as the watch and the shadow hear of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Drawn:
    """New images that answer one request."""

    fields: Mapping[str, Any]
    """Number, label (the name of a class, or None) or text, and seed: what another version can draw, too."""
    images: Tensor
    """uint8 [N,C,H,W]."""
    labels: Tensor | None
    """int64 [N]; None for a model without classes."""
    seconds: float | None
    """The time that they took; None if other calls ran beside, because it then says nothing about the model."""
