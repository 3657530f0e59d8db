"""The images of a search are the training images alone, and nothing of the held-out ones is read."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from ddpm.compute.settings import Runtime
from ddpm.data.reading.dataset import Facts, Split, read_facts, read_split
from ddpm.data.reading.shard_index import Index, write_index, write_shard
from ddpm.errors import UserError
from ddpm.files import write_json
from ddpm.params import load as load_params
from ddpm.searching.validation_part import write_search_data

PARAMS = Path(__file__).parents[2] / "params.yaml"
SHAPE = (1, 4, 4)
SHARD_BYTES = 128 + 50 * 16


@pytest.fixture
def runtime() -> Runtime:
    return load_params(PARAMS).runtime


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """160 training images, ten of them twice, in shards, and 40 held-out images; three classes."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "prepared"
    images = rng.integers(0, 256, (200, *SHAPE), np.uint8)
    images[150:160] = images[:10]
    labels = rng.integers(0, 3, 200)
    labels[150:160] = labels[:10]
    for name, rows in (("train", range(160)), ("test", range(160, 200))):
        (folder / name).mkdir(parents=True)
        shards = [
            write_shard(folder / name, k, [images[part]], n=len(part), shape=SHAPE, store=None)
            for k, part in enumerate(np.array_split(np.array(rows), 2))
        ]
        write_index(folder / name, Index(None, tuple(shards)))
        np.save(folder / name / "labels.npy", labels[np.array(rows)])
    facts = Facts("d", "folder", 1, 4, ("a", "b", "c"), 160, 40, 200, 200, {}, "hash")
    write_json(folder / "dataset.json", {k: v for k, v in vars(facts).items() if v is not None})
    return folder


def pixels(split: Split) -> list[bytes]:
    return [
        hashlib.sha256(image.tobytes()).digest() for image in np.asarray(split.images[np.arange(len(split.images))])
    ]


def test_the_training_images_are_divided_and_no_held_out_image_is_there(
    prepared: Path, tmp_path: Path, runtime: Runtime
) -> None:
    held_out, known = pixels(read_split(prepared, "test", runtime)), pixels(read_split(prepared, "train", runtime))
    for path in (prepared / "test").iterdir():  # whoever reads one of them fails
        path.unlink()
    made = tmp_path / "search"
    facts = write_search_data(prepared, made, validation=0.25, seed=0, shard_bytes=SHARD_BYTES, runtime=runtime)
    assert read_facts(made) == facts
    train, test = read_split(made, "train", runtime), read_split(made, "test", runtime)
    assert sorted(pixels(train) + pixels(test)) == sorted(known)
    assert not set(pixels(train) + pixels(test)) & set(held_out)
    assert not set(pixels(train)) & set(pixels(test)), "a copy of a training image is for validation"
    assert (facts.train, facts.test, facts.kept) == (len(pixels(train)), len(pixels(test)), 160)
    assert 35 <= facts.test <= 45
    of_pixels = dict(zip(known, read_split(prepared, "train", runtime).labels.tolist(), strict=True))
    for split in (train, test):
        assert split.labels is not None
        assert [of_pixels[each] for each in pixels(split)] == split.labels.tolist()


def test_the_division_depends_on_seed_and_share_and_is_made_once(
    prepared: Path, tmp_path: Path, runtime: Runtime
) -> None:
    def made(name: str, **options: float) -> tuple[str, list[bytes]]:
        given = {"validation": 0.25, "seed": 0} | options
        facts = write_search_data(prepared, tmp_path / name, **given, shard_bytes=SHARD_BYTES, runtime=runtime)
        return facts.content_hash, pixels(read_split(tmp_path / name, "test", runtime))

    first = made("a")
    kept = (tmp_path / "a/dataset.json").stat().st_mtime_ns
    assert made("a") == first
    assert (tmp_path / "a/dataset.json").stat().st_mtime_ns == kept
    assert made("b") == first
    other = made("a", seed=1)
    assert other[0] != first[0]
    assert set(other[1]) != set(first[1])
    assert made("b", validation=0.5)[0] not in (first[0], other[0])


def test_a_share_that_leaves_nothing_is_refused(prepared: Path, tmp_path: Path, runtime: Runtime) -> None:
    (prepared / "train/labels.npy").unlink()
    shard = write_shard(prepared / "train", 0, [np.zeros((1, *SHAPE), np.uint8)], n=1, shape=SHAPE, store=None)
    write_index(prepared / "train", Index(None, (shard,)))
    with pytest.raises(UserError, match=r"search.validation is 0.2, which leaves no image for test of 1 training"):
        write_search_data(prepared, tmp_path / "s", validation=0.2, seed=0, shard_bytes=SHARD_BYTES, runtime=runtime)
    assert not (tmp_path / "s").exists()
