"""The image at each position of the endless training sequence: a function of (seed, position) alone.

Every epoch contains every image once. The sequence does not depend on the number of processes, the batch or the cache,
and a training can continue at any position.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from ddpm.seeding import seed_of


class Order(Protocol):
    streams: int
    """Positions that are equal modulo this number read the same shards, one after the other."""

    def indices(self, positions: np.ndarray) -> np.ndarray:
        """Return the images at these positions (int64 [n], counted from 0 over all epochs): int64 [n] in 0..N-1."""

    def shards(self, positions: np.ndarray) -> list[int]:
        """Return the shards of the images at these positions, each once, in the order of their first use."""


def make_order(sizes: Sequence[int], *, seed: int, shuffle_shards: int) -> Order:
    """Return the order of images in shards of these sizes; `shuffle_shards` shards are mixed at a time."""
    return OneShard(sizes[0], seed) if len(sizes) == 1 else ManyShards(sizes, seed, shuffle_shards)


class OneShard:
    """A permutation of all images per epoch."""

    streams = 1

    def __init__(self, n: int, seed: int) -> None:
        self._n = n
        self._epoch = lru_cache(2)(lambda epoch: _permutation(n, seed, epoch))

    def indices(self, positions: np.ndarray) -> np.ndarray:
        found = np.empty(len(positions), np.int64)
        epochs, places = np.divmod(positions, self._n)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            found[here] = self._epoch(epoch)[places[here]]
        return found

    def shards(self, positions: np.ndarray) -> list[int]:
        return [0] if len(positions) else []


class _Found(NamedTuple):
    """The positions of one epoch, with their shards and their places in these shards."""

    epoch: int
    here: np.ndarray
    """bool [positions]: those of this epoch."""
    shards: np.ndarray
    places: np.ndarray


class ManyShards:
    """Shards in random order, and images in random order within each, read in `streams` alternating streams.

    An epoch of N images is the sequence of its shuffled shards, divided into `streams` runs of equal length (up to one
    image). Position q of the epoch is place q // streams of run q % streams. Every run reads one shard
    at a time, so `streams` shards are mixed at any position. A reader of only the positions with one residue modulo R,
    where R divides `streams`, opens only one shard in R.

    In memory are the order of the shards, 8 bytes each, and the permutations of the shards that are being read, but no
    permutation of the whole data set.
    """

    def __init__(self, sizes: Sequence[int], seed: int, streams: int) -> None:
        self.streams, self._seed = streams, seed
        self._sizes = np.asarray(sizes, np.int64)
        self._first = np.cumsum(self._sizes) - self._sizes
        self._n = int(self._sizes.sum())
        self._epoch = lru_cache(3)(self._shuffled_shards)
        # A batch may read two shards of every run: the end of one and the beginning of the next.
        self._within = lru_cache(3 * streams)(self._shuffled_images)

    def indices(self, positions: np.ndarray) -> np.ndarray:
        indices = np.empty(len(positions), np.int64)
        for found in self._found(positions):
            part = self._first[found.shards]
            for shard in np.unique(found.shards).tolist():
                own = found.shards == shard
                part[own] += self._within(found.epoch, shard)[found.places[own]]
            indices[found.here] = part
        return indices

    def shards(self, positions: np.ndarray) -> list[int]:
        return list(dict.fromkeys(shard for found in self._found(positions) for shard in found.shards.tolist()))

    def _found(self, positions: np.ndarray) -> Iterator[_Found]:
        epochs, within_epoch = np.divmod(positions, self._n)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            place, run = np.divmod(within_epoch[here], self.streams)
            length, longer = divmod(self._n, self.streams)  # the first `longer` runs have one image more
            at = run * length + np.minimum(run, longer) + place
            shuffled, ends = self._epoch(epoch)
            slot = np.searchsorted(ends, at, side="right")
            shards = shuffled[slot]
            yield _Found(epoch, here, shards, at - (ends[slot] - self._sizes[shards]))

    def _shuffled_shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the shards in the order of the epoch, and the end of each in the sequence: int64 [S] each."""
        shuffled = _permutation(len(self._sizes), self._seed, epoch)
        return shuffled, np.cumsum(self._sizes[shuffled])

    def _shuffled_images(self, epoch: int, shard: int) -> np.ndarray:
        return _permutation(int(self._sizes[shard]), self._seed, epoch, shard)


def _permutation(n: int, *position: int) -> np.ndarray:
    return np.random.default_rng(seed_of("order", *position)).permutation(n)
