"""The order of training has every image once per epoch, depends only on the position, and needs little memory."""

import tracemalloc

import numpy as np
import pytest
import torch

from ddpm.seeding import seed_of
from ddpm.training import batches as batches_module
from ddpm.training.batches import Batches
from ddpm.training.order import ManyShards, OneShard, make_order

SIZES = [10, 10, 10, 10, 7]
N = sum(SIZES)
POSITIONS = np.arange(4 * N)


def shard_of(indices: np.ndarray, sizes: list[int] = SIZES) -> np.ndarray:
    return np.searchsorted(np.cumsum(sizes), indices, side="right")


@pytest.mark.parametrize("shuffle_shards", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("sizes", [[N], SIZES, [1, 45, 1]])
def test_every_epoch_holds_every_image_once_and_no_two_are_alike(sizes: list[int], shuffle_shards: int) -> None:
    seen = make_order(sizes, seed=0, shuffle_shards=shuffle_shards).indices(POSITIONS).reshape(4, N)
    assert np.array_equal(np.sort(seen, axis=1), np.tile(np.arange(N), (4, 1)))
    assert len({epoch.tobytes() for epoch in seen}) == 4
    assert not np.array_equal(seen[0], make_order(sizes, seed=1, shuffle_shards=shuffle_shards).indices(POSITIONS[:N]))


def test_one_shard_is_a_permutation_of_the_whole_set_per_epoch() -> None:
    seen = make_order([N], seed=5, shuffle_shards=8).indices(POSITIONS)
    expected = [np.random.default_rng(seed_of("order", 5, epoch)).permutation(N) for epoch in range(4)]
    assert np.array_equal(seen, np.concatenate(expected))


@pytest.mark.parametrize("sizes", [[N], SIZES])
def test_any_position_is_found_without_those_before_it(sizes: list[int]) -> None:
    seen = make_order(sizes, seed=0, shuffle_shards=2).indices(POSITIONS)
    for start in (3, N - 2, 2 * N + 17):  # the second crosses into the next epoch
        fresh = make_order(sizes, seed=0, shuffle_shards=2)
        assert np.array_equal(fresh.indices(np.arange(start, start + 16)), seen[start : start + 16])


def test_at_any_moment_so_many_shards_are_mixed_and_each_is_read_to_its_end() -> None:
    sizes = [100] * 40
    order = make_order(sizes, seed=0, shuffle_shards=8)
    shards = shard_of(order.indices(np.arange(4000)), sizes).reshape(-1, 40)
    # 40 positions are 5 places in each of 8 streams, which may reach into the next shard.
    assert all(7 <= len(set(part)) <= 16 for part in shards.tolist())
    for stream in range(8):
        own = shard_of(order.indices(np.arange(stream, 4000, 8)), sizes)
        assert np.count_nonzero(np.diff(own)) <= 5, "500 images: five shards, or four and the ends of two"


def test_the_shards_of_positions_are_those_of_their_images() -> None:
    order = make_order(SIZES, seed=0, shuffle_shards=2)
    for start in range(0, 2 * N, 5):
        positions = np.arange(start, start + 5)
        assert set(order.shards(positions)) == set(shard_of(order.indices(positions)).tolist())


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_a_process_that_takes_its_run_of_every_batch_opens_only_its_share_of_the_shards(processes: int) -> None:
    sizes, batch = [64] * 64, 32
    images = np.arange(sum(sizes) * 4, dtype=np.uint32).view(np.uint8).reshape(-1, 1, 4, 4)
    batches = of_shards(images, sizes, batch=batch, shuffle_shards=8)
    opened: list[set[int]] = [set() for _ in range(processes)]
    for seen in range(0, sum(sizes), batch):
        for rank in range(processes):
            part = slice(rank * batch // processes, (rank + 1) * batch // processes)
            rows = batches._order.indices(batches._positions(seen)[part])
            opened[rank] |= set(shard_of(rows, sizes).tolist())
    assert set().union(*opened) == set(range(64))
    share = 64 // processes
    assert max(map(len, opened)) <= share + 2, "and the halves of a shard at the ends of its runs"


class InShards:
    """An array that claims to be in shards."""

    def __init__(self, images: np.ndarray, sizes: list[int]) -> None:
        self.images, self.sizes = images, tuple(sizes)
        self.shape, self.dtype, self.nbytes = images.shape, images.dtype, images.nbytes
        self.wanted: list[list[int]] = []
        self.room = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.images[rows]

    def prefetch(self, shards: list[int]) -> None:
        self.wanted.append(shards)

    def require_room(self, shards: int) -> None:
        self.room = shards


def of_shards(images: np.ndarray, sizes: list[int], *, batch: int, shuffle_shards: int) -> Batches:
    return Batches(
        InShards(images, sizes),
        np.arange(len(images)),
        batch_size=batch,
        seed=0,
        flip=True,
        device=torch.device("cpu"),
        shuffle_shards=shuffle_shards,
    )


IMAGES = np.random.default_rng(0).integers(0, 256, (N, 1, 4, 4), np.uint8)


@pytest.mark.parametrize("sizes", [[N], SIZES])
@pytest.mark.parametrize("processes", [2, 3, 5])
def test_the_parts_of_a_batch_are_together_the_batch(sizes: list[int], processes: int) -> None:
    whole = of_shards(IMAGES, sizes, batch=16, shuffle_shards=4)
    for seen in range(0, 6 * 16, 16):
        images, labels = whole.at(seen)
        for rank in range(processes):  # each with its own cache
            part = slice(rank * 16 // processes, (rank + 1) * 16 // processes)
            some, their = of_shards(IMAGES, sizes, batch=16, shuffle_shards=4).at(seen, part)
            assert torch.equal(some, images[part])
            assert torch.equal(their, labels[part])  # type: ignore[index,arg-type]


def test_shards_are_requested_half_a_shard_before_they_are_read() -> None:
    sizes = [32] * 20
    images = np.zeros((640, 1, 2, 2), np.uint8)
    batches = of_shards(images, sizes, batch=8, shuffle_shards=4)
    asked: set[int] = set()
    for seen in range(0, 640 - 64, 8):
        batches.at(seen)
        if seen >= 64:  # half a shard in each of four streams
            now = shard_of(batches._order.indices(np.arange(seen, seen + 8)), sizes)
            assert set(now.tolist()) <= asked
        asked |= set(batches.images.wanted[-1])  # type: ignore[attr-defined]
    assert batches.images.room == 8, "four, and the next of each"  # type: ignore[attr-defined]


def test_a_hundred_million_images_need_no_permutation_of_them_all() -> None:
    shards = 100_000
    order = make_order([1000] * shards, seed=0, shuffle_shards=64)
    tracemalloc.start()
    batch = order.indices(np.arange(77_000_000, 77_000_512))
    order.indices(np.arange(177_000_000, 177_000_512))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(batch.tolist())) == 512
    # Two epochs of shards (order and ends), and at most 3 x 64 permutations of 1000: the set itself has 800 MB.
    assert peak < 4 * 2 * 8 * shards + 3 * 64 * 1000 * 8
    assert isinstance(order, ManyShards)
    assert isinstance(make_order([100], seed=0, shuffle_shards=64), OneShard)


def test_images_go_to_the_device_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "_COPY_BYTES", 100)  # six of 16 bytes
    pieces: list[int] = []

    class Watched(InShards):
        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            pieces.append(len(self.images[rows]))
            return self.images[rows]

    resident = batches_module._on_device(Watched(IMAGES, SIZES), torch.device("cpu"))
    assert torch.equal(resident, torch.from_numpy(IMAGES))
    assert pieces == [6] * 7 + [5]
