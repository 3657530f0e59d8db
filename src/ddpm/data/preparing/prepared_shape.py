"""Which size and channels the images get: what is set, or what their headers say."""

from collections import Counter
from collections.abc import Callable

import numpy as np

from ddpm.data.preparing.picture_file import COLOUR, NO_HEADER
from ddpm.data.preparing.pixels import Target
from ddpm.data.preparing.settings import Data
from ddpm.errors import UserError

LARGEST_CHOSEN_SIZE = 256
"""A larger size is trained only when somebody asked for it."""
_REACHED_BY = 0.95
"""Share of the images that must not be smaller than the size that is chosen for them."""
SAMPLE = 1024
"""Headers that are read before all are."""

ReadHeaders = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Of the files in these rows [n]: int32 [n] the shorter side, uint8 [n] NO_HEADER, COLOUR or GREY."""


def is_set(data: Data) -> bool:
    """No header is needed."""
    return data.size is not None and data.channels is not None


def target_of(data: Data, sides: np.ndarray, headers: np.ndarray) -> Target:
    """Size and channels as set, or what the headers of all images say.

    Size: the shorter side that half of the images or more have in common; without one, or where it would enlarge
    more than one image in twenty, the largest multiple of 8 that does not. Channels: 1 when every image is grey.
    `sides` int32 [N] in pixels, `headers` uint8 [N]; those of NO_HEADER do not count.
    Raises UserError where the size would be one that nobody trains unasked.
    """
    seen = headers != NO_HEADER
    lengths, counts = np.unique(sides[seen], return_counts=True)
    sizes = Counter(dict(zip(lengths.tolist(), counts.tolist(), strict=True)))
    grey = not (headers == COLOUR).any()
    return Target(
        size=data.size if data.size is not None else _size_of(sizes),
        channels=data.channels if data.channels is not None else (1 if grey else 3),
        fit=data.fit,
    )


def look(data: Data, sides: np.ndarray, headers: np.ndarray, unknown: np.ndarray, read: ReadHeaders) -> Target:
    """The target by the headers known so far, of which `unknown` [n] rows are read into `sides` and `headers`.

    Where a sample and all that is known agree, the others are taken to agree too, and are read while they are
    decoded; whoever decodes must hold the target against all headers then. Else all are read.
    """
    sample = unknown[np.linspace(0, len(unknown) - 1, min(len(unknown), SAMPLE)).astype(np.int64)]
    sides[sample], headers[sample] = read(sample)
    seen = headers != NO_HEADER
    if len(np.unique(sides[seen])) > 1 or len(np.unique(headers[seen])) > 1:
        rest = np.setdiff1d(unknown, sample, assume_unique=True)
        if len(rest):
            sides[rest], headers[rest] = read(rest)
    return target_of(data, sides, headers)


def _size_of(sides: Counter[int]) -> int:
    """`sides`: how many images have a shorter side of so many pixels."""

    def share_not_smaller(size: int) -> float:
        return sum(n for side, n in sides.items() if side >= size) / sides.total()

    if not sides:  # nothing can be decoded; the reasons come with decoding
        return LARGEST_CHOSEN_SIZE
    size = max(sides, key=lambda side: sides[side])
    if sides[size] < sides.total() / 2 or share_not_smaller(size) < _REACHED_BY:
        size = max((side for side in range(8, max(sides) + 1, 8) if share_not_smaller(side) >= _REACHED_BY), default=8)
    if not 4 <= size <= LARGEST_CHOSEN_SIZE:
        raise UserError(
            f"by their own sizes the images would become {size} pixels wide and high, and only 4 to "
            f"{LARGEST_CHOSEN_SIZE} are taken without being asked for; set data.size in params.yaml, for instance to 64"
        )
    return size
