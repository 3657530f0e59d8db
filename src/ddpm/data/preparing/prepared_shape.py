"""Choose size and channels of the prepared images: from the settings, else from the images' headers.

A size from the headers may be too large for the machine that trains; who calls decides by a function, `ChooseSize`.
"""

from collections.abc import Callable

import numpy as np

from ddpm.data.preparing.picture_file import COLOUR, NO_HEADER
from ddpm.data.preparing.pixels import Target
from ddpm.data.preparing.settings import Data
from ddpm.errors import UserError

_SIZE_OF_NONE = 8
"""If no image can be decoded; decoding reports the reasons."""
_REACHED_BY = 0.95
"""Share of the images that must not be smaller than the chosen size."""
SAMPLE = 1024
"""Headers that are read first, before it is decided whether all are read."""

ReadHeaders = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Maps rows [n] of files to int32 [n], their shorter sides, and uint8 [n], each NO_HEADER, COLOUR or GREY."""

ChooseSize = Callable[[int, int], int]
"""Maps the images' own size and their channels to the size that they get; called only if data.size is null."""


def keep_own_size(size: int, channels: int) -> int:
    """Return the images' own size."""
    return size


def is_set(data: Data) -> bool:
    """Whether size and channels are set, so that no header is needed."""
    return data.size is not None and data.channels is not None


def target_of(data: Data, sides: np.ndarray, headers: np.ndarray, choose_size: ChooseSize) -> Target:
    """Return the target: size and channels from the settings, else from the headers of all images.

    Channels: 1 when every image is grey. `sides` int32 [N] in pixels, `headers` uint8 [N]; images with NO_HEADER do
    not count. Raises UserError as `own_size` and `choose_size` do.
    """
    grey = not (headers == COLOUR).any()
    channels = data.channels if data.channels is not None else (1 if grey else 3)
    size = data.size
    if size is None:
        own = own_size(sides, headers)
        size = choose_size(own, channels) if own is not None else _SIZE_OF_NONE
    return Target(size=size, channels=channels, fit=data.fit)


def look(
    data: Data,
    sides: np.ndarray,
    headers: np.ndarray,
    unknown: np.ndarray,
    *,
    read: ReadHeaders,
    choose_size: ChooseSize,
) -> Target:
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
    return target_of(data, sides, headers, choose_size)


def own_size(sides: np.ndarray, headers: np.ndarray) -> int | None:
    """Return the size that the images have by themselves; None if no header is known.

    It is the shorter side that at least half of the images have in common; without one, or if it would enlarge more
    than one image in twenty, the largest multiple of 8 that does not. Arguments as in `target_of`.
    Raises UserError for a size below 4.
    """
    lengths, counts = np.unique(sides[headers != NO_HEADER], return_counts=True)
    number = dict(zip(lengths.tolist(), counts.tolist(), strict=True))
    total = sum(number.values())

    def share_not_smaller(size: int) -> float:
        return sum(n for side, n in number.items() if side >= size) / total

    if not number:
        return None
    size: int = max(number, key=lambda side: number[side])
    if number[size] < total / 2 or share_not_smaller(size) < _REACHED_BY:
        size = max((side for side in range(8, max(number) + 1, 8) if share_not_smaller(side) >= _REACHED_BY), default=8)
    if size < 4:
        raise UserError(
            f"by their own sizes the images would become {size} pixels wide and high, expected 4 or more; set "
            "data.size in params.yaml, for instance to 8"
        )
    return size
