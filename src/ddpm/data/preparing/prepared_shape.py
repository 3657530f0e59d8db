"""Choose size and channels of the prepared images: from the settings, else from the images' headers."""

from collections import Counter
from collections.abc import Callable

import numpy as np

from ddpm.data.preparing.picture_file import COLOUR, NO_HEADER
from ddpm.data.preparing.pixels import Target
from ddpm.data.preparing.settings import Data
from ddpm.errors import UserError

LARGEST_CHOSEN_SIZE = 256
"""A larger size is used only if data.size sets it."""
_REACHED_BY = 0.95
"""Share of the images that must not be smaller than the chosen size."""
SAMPLE = 1024
"""Headers that are read first, before it is decided whether all are read."""

ReadHeaders = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Maps rows [n] of files to int32 [n], their shorter sides, and uint8 [n], each NO_HEADER, COLOUR or GREY."""


def is_set(data: Data) -> bool:
    """Whether size and channels are set, so that no header is needed."""
    return data.size is not None and data.channels is not None


def target_of(data: Data, sides: np.ndarray, headers: np.ndarray) -> Target:
    """Return the target: size and channels from the settings, else from the headers of all images.

    Size: the shorter side that at least half of the images have in common; without one, or if it would enlarge more
    than one image in twenty, the largest multiple of 8 that does not. Channels: 1 when every image is grey.
    `sides` int32 [N] in pixels, `headers` uint8 [N]; images with NO_HEADER do not count.
    Raises UserError for a size chosen in this way that is below 4 or above LARGEST_CHOSEN_SIZE.
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
    """Return the target by the known headers; headers of the rows `unknown` [n] are read into `sides` and `headers`.

    If all known headers and a sample of the unknown ones agree, the others are assumed to agree too and are not read:
    the caller must compare the target with all headers after decoding. Otherwise all headers are read.
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
    """Return the size for `sides`, the number of images by shorter side in pixels."""

    def share_not_smaller(size: int) -> float:
        return sum(n for side, n in sides.items() if side >= size) / sides.total()

    if not sides:  # no image can be decoded; decoding reports the reasons
        return LARGEST_CHOSEN_SIZE
    size = max(sides, key=lambda side: sides[side])
    if sides[size] < sides.total() / 2 or share_not_smaller(size) < _REACHED_BY:
        size = max((side for side in range(8, max(sides) + 1, 8) if share_not_smaller(side) >= _REACHED_BY), default=8)
    if not 4 <= size <= LARGEST_CHOSEN_SIZE:
        raise UserError(
            f"by their own sizes the images would become {size} pixels wide and high, expected 4 to "
            f"{LARGEST_CHOSEN_SIZE} unless a size is set; set data.size in params.yaml, for instance to 64"
        )
    return size
