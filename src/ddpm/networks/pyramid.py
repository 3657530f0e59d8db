"""The resolutions of an encoder, decoder, generator or discriminator: halved from the image down to a small map."""

import torch.nn.functional as F
from torch import Tensor

_WIDEST = 4
"""Channels of a resolution are at most so many times those of the highest."""


class Pyramid:
    """Resolutions of an image of `size` pixels down to `base` positions, each half of the one before.

    The highest is the smallest base * 2^k that is at least `size`; images are padded to it and cropped from it.
    """

    def __init__(self, size: int, *, width: int, base: int) -> None:
        self.size, self.base, self.highest = size, base, base
        levels = 1
        while self.highest < size:
            self.highest, levels = 2 * self.highest, levels + 1
        self.widths = [width * min(2**level, _WIDEST) for level in range(levels)]
        """Channels of each resolution, the highest first: they double up to four times the width."""

    def pad(self, x: Tensor) -> Tensor:
        """Return x [N,C,size,size] at the highest resolution, with zeros below and to the right."""
        more = self.highest - self.size
        return F.pad(x, (0, more, 0, more)) if more else x

    def crop(self, x: Tensor) -> Tensor:
        """Return the image inside x at the highest resolution."""
        return x[..., : self.size, : self.size]
