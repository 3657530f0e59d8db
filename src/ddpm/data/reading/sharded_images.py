"""Read the images of a split like one array, from shards beside their index or in an object store."""

import math
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ddpm.data.reading.shard_cache import ShardCache, mark_used
from ddpm.data.reading.shard_index import IMAGES, Index, made_again, require_whole
from ddpm.errors import UserError

OPEN_SHARDS = 1024
"""Largest number of open memory maps; they take only address space."""
_FETCHING_THREADS = 4
_ATTEMPTS_TO_OPEN = 5
_HEADER_BYTES = 128
"""Header size of a .npy file with at most four dimensions."""


class ShardedImages:
    """[N,C,H,W], uint8 of images or float16 of latents, read-only.

    Rows are copied from memory-mapped shards; no other samples are in memory.

    Shards of a store are fetched when they are first read, and stay in the cache while it has room. Every shard is
    hashed before it is first read. Thread-safe. Reading raises UserError for a shard that is missing, damaged or of
    another shape than the index says, and for a store that does not answer.
    """

    def __init__(
        self,
        folder: Path,
        index: Index,
        *,
        image_shape: tuple[int, int, int],
        cache: ShardCache | None = None,
        dtype: np.dtype = IMAGES,
    ) -> None:
        """Read the split in `folder`; `image_shape` is [C,H,W]. Only shards of a store need a cache."""
        self._folder, self._index, self._cache, self.dtype = folder, index, cache, dtype
        self.sizes = tuple(shard.images for shard in index.shards)
        """Images per shard."""
        self.shape = (index.images, *image_shape)
        self._ends = np.cumsum(np.array(self.sizes, np.int64))
        self._first = self._ends - np.array(self.sizes, np.int64)
        self._whole: set[int] = set()
        """Local shards that were hashed and are undamaged."""
        self._maps: OrderedDict[int, tuple[Path, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()
        self._ahead: _Ahead | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: "int | slice | np.ndarray") -> np.ndarray:
        """Return a copy: [C,H,W] for an integer, [n,C,H,W] for a slice or an array of integers."""
        if isinstance(rows, int | np.integer):
            return self._gathered(np.array([rows]))[0]
        if isinstance(rows, slice):
            return self._gathered(np.arange(*rows.indices(len(self))))
        return self._gathered(np.asarray(rows))

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError(f"{self.nbytes} bytes of images in shards are not an array; read rows, or [:] if all fit")

    def prefetch(self, shards: Iterable[int]) -> None:
        """Fetch and hash these shards in the background, in this order; return at once."""
        if self._ahead is None:
            self._ahead = _Ahead(self._file)
        self._ahead.request(shard for shard in shards if shard not in self._maps)

    def require_room(self, shards: int) -> None:
        """Raise UserError if this number of shards (or all, if there are fewer) does not fit in the cache at a time."""
        if self._index.store is None or self._cache is None:
            return
        needed = sum(sorted(map(self._file_bytes, range(len(self.sizes))), reverse=True)[:shards])
        if needed > self._cache.limit_bytes:
            raise UserError(
                f"runtime.cache_bytes is {self._cache.limit_bytes}, but the shards that are read at a time and those "
                f"that are prefetched have {needed} bytes and would be fetched repeatedly; raise it, or lower "
                "train.shuffle_shards"
            )

    def _gathered(self, rows: np.ndarray) -> np.ndarray:
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise IndexError(f"rows are {rows.dtype} {list(rows.shape)}, expected one dimension of integers")
        rows = np.where(rows < 0, rows + len(self), rows)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()}, of {len(self)} images")
        images = np.empty((len(rows), *self.shape[1:]), self.dtype)
        order = np.argsort(rows, kind="stable")  # shard by shard, each in ascending order
        ordered = rows[order]
        shards = np.searchsorted(self._ends, ordered, side="right")
        for shard in np.unique(shards).tolist():
            start, stop = np.searchsorted(shards, [shard, shard + 1])
            images[order[start:stop]] = self._opened(shard)[ordered[start:stop] - self._first[shard]]
        return images

    def _opened(self, shard: int) -> np.ndarray:
        with self._lock:
            if shard in self._maps:
                path, images = self._maps[shard]
                self._maps.move_to_end(shard)
                if self._index.store is not None:
                    mark_used(path)
                return images
        for _ in range(_ATTEMPTS_TO_OPEN):
            path = self._file(shard)
            try:
                images = self._mapped(path, shard)
            except FileNotFoundError:
                continue  # another process has just deleted it from the cache
            self._keep(shard, path, images)
            return images
        raise UserError(
            f"{path} is deleted from the cache before it can be read: runtime.cache_bytes is too small for all "
            "processes that share the cache; raise it"
        )

    def _keep(self, shard: int, path: Path, images: np.ndarray) -> None:
        with self._lock:
            if self._index.store is not None:  # a deleted file takes disk space while it is mapped
                for key in [key for key, (kept, _) in self._maps.items() if not kept.exists()]:
                    del self._maps[key]
            self._maps[shard] = path, images
            if self._ahead is not None:
                self._ahead.forget(shard)
            while len(self._maps) > OPEN_SHARDS:
                self._maps.popitem(last=False)

    def _mapped(self, path: Path, shard: int) -> np.ndarray:
        images = map_file(path)
        expected = (self.sizes[shard], *self.shape[1:])
        if images.shape != expected or images.dtype != self.dtype:
            raise UserError(
                f"{path} contains {images.dtype} {list(images.shape)}, but its index says {self.dtype} "
                f"{list(expected)}; {made_again(path)}"
            )
        return images

    def _file(self, shard: int) -> Path:
        """Return the shard's local file, fetched if necessary, undamaged."""
        location = self._index.location(self._folder, self._index.shards[shard])
        if self._index.store is None:
            if shard not in self._whole:
                require_whole(Path(location), self._index.shards[shard])
                self._whole.add(shard)
            return Path(location)
        if self._cache is None:
            raise UserError(f"{location} is in a store; name a folder for fetched shards in runtime.cache to read it")
        sha256 = self._index.shards[shard].sha256
        return self._cache.fetched(location, sha256=sha256, n_bytes=self._file_bytes(shard))

    def _file_bytes(self, shard: int) -> int:
        return _HEADER_BYTES + self.sizes[shard] * math.prod(self.shape[1:]) * self.dtype.itemsize


def map_file(path: Path) -> np.ndarray:
    """Return a .npy file as a read-only memory map. Raises UserError if it is damaged."""
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}); {made_again(path)}") from None


class _Ahead:
    """Daemon threads that fetch shards before they are needed."""

    def __init__(self, fetch: Callable[[int], object]) -> None:
        self._fetch = fetch
        self._queue: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._requested: set[int] = set()
        for _ in range(_FETCHING_THREADS):
            threading.Thread(target=self._work, name="fetch shards", daemon=True).start()

    def request(self, shards: Iterable[int]) -> None:
        for shard in shards:
            if shard not in self._requested:
                self._requested.add(shard)
                self._queue.put(shard)

    def forget(self, shard: int) -> None:
        """Allow the shard to be requested again, since it was opened."""
        self._requested.discard(shard)

    def _work(self) -> None:
        while True:
            shard = self._queue.get()
            try:
                self._fetch(shard)
            except UserError:
                self._requested.discard(shard)  # the error is raised again when the shard is read
