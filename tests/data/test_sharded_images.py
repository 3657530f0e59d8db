"""Images in local shards or in an S3 store that the tests start: equal rows, a bounded cache, clear errors."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.registry import _registry
from waiting import HANG_SECONDS

from ddpm.compute.settings import Runtime
from ddpm.data.reading import shard_cache, sharded_images
from ddpm.data.reading.dataset import Facts, read_split
from ddpm.data.reading.shard_index import read_index
from ddpm.data.reading.sharded_images import ShardedImages
from ddpm.errors import UserError
from ddpm.images import Sharded
from ddpm.params import load as load_params

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
IMAGES = np.random.default_rng(0).integers(0, 256, (47, 1, 8, 8), np.uint8)
LABELS = np.arange(47) % 3
SHARD_BYTES = 128 + 5 * 64  # five images

FACTS = Facts(
    name="noise",
    source="folder",
    channels=1,
    size=8,
    classes=("a", "b", "c"),
    train=47,
    test=47,
    found=94,
    kept=94,
    rejected={},
    content_hash="c" * 64,
)


def prepared(folder: Path, write_split: Callable[..., None], *, store: str | None = None, images: Any = IMAGES) -> Path:
    """A folder of prepared data whose splits have ten shards each."""
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(dataclasses.asdict(FACTS)))
    for name in ("train", "test"):
        write_split(folder / name, images, LABELS, shard_bytes=SHARD_BYTES, store=store)
    return folder


def runtime(cache: Path, *, shards: float) -> Runtime:
    """Return runtime settings whose cache has room for this many shards."""
    return dataclasses.replace(
        PARAMS.runtime, device="cpu", progress=False, cache=str(cache), cache_bytes=int(shards * SHARD_BYTES)
    )


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_cache, "PAUSES", (0.01, 0.01, 0.01))


@pytest.fixture(params=["disk", "memory", "s3"])
def images(request: pytest.FixtureRequest, tmp_path: Path, write_split: Callable[..., None], s3: str) -> ShardedImages:
    """The same images: local, in a store in memory, and in S3."""
    store = {"disk": None, "memory": f"memory://{uuid.uuid4()}", "s3": f"{s3}/{uuid.uuid4()}"}[request.param]
    folder = prepared(tmp_path / "prepared", write_split, store=store)
    found = read_split(folder, "train", runtime(tmp_path / "cache", shards=3.5)).images
    assert isinstance(found, ShardedImages)
    return found


def test_rows_equal_those_of_the_array_wherever_the_shards_are(images: ShardedImages) -> None:
    assert isinstance(images, Sharded)
    assert (images.shape, images.dtype, images.nbytes, len(images)) == (IMAGES.shape, np.uint8, IMAGES.nbytes, 47)
    for rows in (0, -1, 46, slice(None), slice(3, 30, 4), slice(40, None, -7), slice(5, 5)):
        np.testing.assert_array_equal(images[rows], IMAGES[rows])
    shuffled = np.random.default_rng(1).integers(-47, 47, 100)  # with repetitions
    np.testing.assert_array_equal(images[shuffled], IMAGES[shuffled])
    assert images[np.array([], np.int64)].shape == (0, 1, 8, 8)
    for outside in (47, np.array([0, -48])):
        with pytest.raises(IndexError, match="of 47 images"):
            images[outside]


def test_shards_are_not_converted_to_one_array_implicitly(images: ShardedImages) -> None:
    with pytest.raises(TypeError, match="3008 bytes"):
        np.asarray(images)


def test_one_shard_on_disk_is_a_memory_map(tmp_path: Path, write_split: Callable[..., None]) -> None:
    write_split(tmp_path / "train", IMAGES, LABELS)
    split = read_split(tmp_path, "train")
    assert isinstance(split.images, np.memmap)
    assert not split.images.flags.writeable
    np.testing.assert_array_equal(split.images, IMAGES)
    np.testing.assert_array_equal(split.labels, LABELS)


def test_the_cache_stays_within_its_limit_and_deletes_the_least_recently_used_shard(
    tmp_path: Path, write_split: Callable[..., None]
) -> None:
    folder = prepared(tmp_path / "prepared", write_split, store=f"memory://{uuid.uuid4()}")
    settings = runtime(tmp_path / "cache", shards=3.5)
    images = read_split(folder, "train", settings).images
    hashes = [shard.sha256 for shard in read_index(folder / "train").shards]

    def cached() -> set[int]:
        return {hashes.index(path.stem) for path in (tmp_path / "cache").glob("*.npy")}

    for row in (0, 5, 10, 0, 15):  # shards 0, 1, 2, 0 again, 3
        images[row]
        assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.*")) <= settings.cache_bytes
    assert cached() == {0, 2, 3}
    again = read_split(folder, "train", settings).images
    fsspec.filesystem("memory").store.clear()  # cached shards are read without the store
    np.testing.assert_array_equal(again[10:20], IMAGES[10:20])


def test_a_shard_larger_than_the_cache_is_refused(tmp_path: Path, write_split: Callable[..., None]) -> None:
    folder = prepared(tmp_path / "prepared", write_split, store=f"memory://{uuid.uuid4()}")
    images = read_split(folder, "train", runtime(tmp_path / "cache", shards=0.9)).images
    with pytest.raises(UserError, match=r"runtime\.cache_bytes is 403, but one shard has 448 bytes"):
        images[0]


def test_shards_are_fetched_in_the_background(
    tmp_path: Path, write_split: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepared(tmp_path / "prepared", write_split, store=f"memory://{uuid.uuid4()}")
    images = read_split(folder, "train", runtime(tmp_path / "cache", shards=9)).images
    by = []
    original, arrived = shard_cache.download, threading.Semaphore(0)

    def download(*args: Any, **kwargs: Any) -> None:
        by.append(threading.current_thread().name)
        original(*args, **kwargs)
        arrived.release()

    monkeypatch.setattr(shard_cache, "download", download)
    images.prefetch([4, 1, 4])  # type: ignore[attr-defined]
    for _ in range(2):
        assert arrived.acquire(timeout=HANG_SECONDS)
    np.testing.assert_array_equal(images[20:25], IMAGES[20:25])
    np.testing.assert_array_equal(images[5:10], IMAGES[5:10])
    assert by == ["fetch shards"] * 2, "the reader has fetched nothing itself, and nothing came twice"


READER = """
import sys, numpy as np
from pathlib import Path
from ddpm.compute.settings import Runtime
from ddpm.settings import as_dict
from ddpm.params import load as load_params
from ddpm.data.reading.dataset import read_split
import dataclasses
folder, cache, params, limit = sys.argv[1:]
runtime = dataclasses.replace(load_params(params).runtime, cache=cache, cache_bytes=int(limit))
images = read_split(Path(folder), "train", runtime).images
rng = np.random.default_rng()
for _ in range(60):
    rows = rng.integers(0, 47, 6)
    print(images[rows].sum(axis=(1, 2, 3)).tolist() == np.load(Path(folder) / "sums.npy")[rows].tolist())
"""


def test_processes_that_share_a_small_cache_read_the_right_rows(
    tmp_path: Path, write_split: Callable[..., None]
) -> None:
    folder = prepared(tmp_path / "prepared", write_split, store=f"file://{tmp_path}/store")
    np.save(folder / "sums.npy", IMAGES.sum(axis=(1, 2, 3)))
    params = str(Path(__file__).parents[2] / "params.yaml")
    command = [sys.executable, "-c", READER, str(folder), str(tmp_path / "cache"), params, str(4 * SHARD_BYTES)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for reader in readers:
        output, errors = reader.communicate(timeout=HANG_SECONDS)
        assert reader.returncode == 0, errors
        assert output.split() == ["True"] * 60
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.npy")) <= 4 * SHARD_BYTES


class _Flaky:
    """A store whose first reads fail."""

    def __init__(self, store: Any, failures: int) -> None:
        self.store, self.failures, self.reads = store, failures, 0

    def get_file(self, key: str, path: str) -> None:
        self.reads += 1
        if self.reads <= self.failures:
            Path(path).write_bytes(b"half")
            raise ConnectionResetError("reset by peer")
        self.store.get_file(key, path)


@pytest.mark.parametrize("failures", [2, 9])
def test_a_network_that_fails_is_tried_again_a_few_times(
    tmp_path: Path, write_split: Callable[..., None], monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    folder = prepared(tmp_path / "prepared", write_split, store=f"memory://{uuid.uuid4()}")
    images = read_split(folder, "train", runtime(tmp_path / "cache", shards=9)).images
    flaky = _Flaky(fsspec.filesystem("memory"), failures)
    monkeypatch.setattr(shard_cache, "_open_store", lambda url: (flaky, url.removeprefix("memory:/")))
    if failures == 2:
        np.testing.assert_array_equal(images[0], IMAGES[0])
    else:
        with pytest.raises(UserError, match=r"could not be read completely in 4 attempts \(reset by peer\)"):
            images[0]
        assert flaky.reads == 4
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_problem_with_a_store_is_reported_in_one_sentence(
    tmp_path: Path, write_split: Callable[..., None], s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"{s3}/{uuid.uuid4()}"
    folder = prepared(tmp_path / "prepared", write_split, store=store)
    settings = runtime(tmp_path / "cache", shards=9)
    first, second, *_ = read_index(folder / "train").shards
    with fsspec.open(f"{store}/{first.sha256}.npy", "wb") as file:
        file.write(b"something else")
    with pytest.raises(UserError, match=rf"{first.sha256}\.npy could not be read completely.*its sha256 is"):
        read_split(folder, "train", settings).images[0]
    fsspec.filesystem("s3").rm_file(f"{store}/{second.sha256}.npy")
    with pytest.raises(UserError, match=rf"{second.sha256}\.npy was not found.*dvc repro -f prepare"):
        read_split(folder, "train", settings).images[5]
    with pytest.raises(UserError, match=r"is in a store; name a folder.*runtime\.cache"):
        read_split(folder, "train").images[0]
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(UserError, match=r"needs a package.*pip install 'ddpm-factory\[s3\]'"):
        read_split(folder, "train", settings).images[20]


def test_a_problem_with_a_shard_on_disk_is_reported_in_one_sentence(
    tmp_path: Path, write_split: Callable[..., None]
) -> None:
    folder = prepared(tmp_path / "prepared", write_split)
    files = [folder / "train" / f"shard-{k:05d}.npy" for k in range(3)]
    files[0].write_bytes(files[0].read_bytes()[:-1])
    files[1].unlink()
    np.save(files[2], IMAGES[:4])
    index = json.loads((folder / "train" / "shards.json").read_text())
    index["shards"][2]["sha256"] = hashlib.sha256(files[2].read_bytes()).hexdigest()
    (folder / "train" / "shards.json").write_text(json.dumps(index))
    images = read_split(folder, "train").images
    with pytest.raises(UserError, match=r"shard-00000\.npy is damaged"):
        images[0]
    with pytest.raises(UserError, match=r"shard-00001\.npy was not found"):
        images[5]
    with pytest.raises(UserError, match=r"shard-00002\.npy contains uint8 \[4, 1, 8, 8\].*says uint8 \[5, 1, 8, 8\]"):
        images[10]


def test_few_memory_maps_stay_open(
    tmp_path: Path, write_split: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharded_images, "OPEN_SHARDS", 2)
    images = read_split(prepared(tmp_path / "prepared", write_split), "train").images
    np.testing.assert_array_equal(images[:], IMAGES)
    assert list(images._maps) == [8, 9]  # type: ignore[attr-defined]


def train(folder: Path, state: Path, settings: Runtime) -> str:
    """Run a tiny training and return the sha256 of its model file."""
    import torch

    from ddpm import model_file
    from ddpm.model_spec import Spec
    from ddpm.networks.settings import CONVENTION
    from ddpm.tracker import NullTracker
    from ddpm.training import session
    from ddpm.training.run import run_training

    spec = Spec(
        channels=1,
        size=8,
        classes=tuple(FACTS.classes),
        unconditional=True,
        schedule=PARAMS.schedule,
        objective=PARAMS.objective,
        network=dataclasses.replace(
            PARAMS.network, width=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8
        ),
        convention=CONVENTION,
    )
    sizes = {"images": 160, "batch_size": 16, "warmup_images": 16, "decay_images": 32, "shuffle_shards": 2}
    split = read_split(folder, "train", settings)
    training = session.begin(
        spec,
        split.images,
        split.labels,
        data_hash=FACTS.content_hash,
        code_hash="of one run",
        settings=dataclasses.replace(PARAMS.train, **sizes),
        runtime=settings,
        device=torch.device("cpu"),
        precision="float32",
        state_folder=state,
    )
    run_training(training, tracker=NullTracker(), log_every_images=10**9, grid_every_images=10**9, picture=lambda: None)  # type: ignore[arg-type,return-value]
    path = state / "model.safetensors"
    return model_file.save(path, network=training.state.ema.network, spec=spec, lineage={})


def test_a_training_from_s3_with_a_cache_smaller_than_the_set_ends_in_the_same_model_as_from_disk(
    tmp_path: Path, write_split: Callable[..., None], s3: str
) -> None:
    local = prepared(tmp_path / "local", write_split)
    remote = prepared(tmp_path / "remote", write_split, store=f"{s3}/{uuid.uuid4()}")
    assert not list(remote.glob("train/shard-*")), "the set is in the store alone"
    small = runtime(tmp_path / "cache", shards=4.5)  # of ten
    assert train(remote, tmp_path / "b", small) == train(local, tmp_path / "a", small)
    files = list((tmp_path / "cache").glob("*.npy"))
    assert 1 < len(files) <= 4
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(UserError, match=r"fetched repeatedly; raise it, or lower train\.shuffle_shards"):
        train(remote, tmp_path / "c", runtime(tmp_path / "cache", shards=3.5))
