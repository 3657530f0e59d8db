"""Extractor, neighbours and reference hash are the same for images in shards as for one array."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddpm.data.reading.shard_index import read_index
from ddpm.data.reading.sharded_images import ShardedImages
from ddpm.measuring import fidelity
from ddpm.measuring.features import extractor_training
from ddpm.measuring.memorization import find_copies_in_every_way
from ddpm.params import load as load_params

CPU = torch.device("cpu")
FEATURES = load_params(Path(__file__).parents[2] / "params.yaml").features
IMAGES = np.random.default_rng(0).integers(0, 256, (90, 1, 8, 8), np.uint8)
LABELS = np.arange(90) % 3


@pytest.fixture
def sharded(tmp_path: Path, write_split: Callable[..., None]) -> ShardedImages:
    """The same images, seven per shard."""
    write_split(tmp_path, IMAGES, shard_bytes=128 + 7 * 64)
    return ShardedImages(tmp_path, read_index(tmp_path), image_shape=(1, 8, 8))


@pytest.mark.parametrize("kind", ["classifier", "rotation"])
def test_the_extractor_is_the_same(sharded: ShardedImages, kind: str) -> None:
    settings = dataclasses.replace(FEATURES, dim=16, images=96, batch_size=32)
    one, other = (
        extractor_training.train_extractor(
            SimpleNamespace(images=images, labels=LABELS),
            SimpleNamespace(images=images, labels=LABELS),
            kind=kind,  # type: ignore[arg-type]
            classes=3,
            settings=settings,
            device=CPU,
            progress=False,
        )
        for images in (IMAGES, sharded)
    )
    assert one.sha256 == other.sha256


def test_its_training_reads_few_of_many_shards(sharded: ShardedImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractor_training, "SHARDS", 4)
    to_row, ends = extractor_training._some_shards(sharded, seed=0)
    places = np.arange(ends[-1])
    rows = places + to_row[np.searchsorted(ends, places, side="right")]
    assert len(set(rows.tolist())) == ends[-1], "every place is another image"
    assert len(set((rows // 7).tolist())) == 4


def test_its_features_are_standardised_over_a_subset_of_a_larger_set(
    sharded: ShardedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(most: int, seed: int = 0) -> list[int]:
        settings = dataclasses.replace(FEATURES, standardise_images=most, seed=seed)
        return extractor_training.rows_described(sharded, settings).tolist()

    assert rows(90) == list(range(90))
    monkeypatch.setattr(extractor_training, "SHARDS", 4)
    some = rows(20)
    assert len(set(some)) == 20
    assert some == sorted(some)
    assert len({row // 7 for row in some}) <= 4
    assert some == rows(20)
    assert some != rows(20, seed=1)
    assert len(rows(60)) <= 4 * 7, "all images of the shards"


def test_copies_and_the_reference_are_the_same(sharded: ShardedImages) -> None:
    generated = np.concatenate([IMAGES[[5, 50]], 255 - IMAGES[:20]])
    features = np.zeros((len(generated), 1), np.float32), np.zeros((len(IMAGES), 1), np.float32)
    one, other = (
        find_copies_in_every_way(
            (generated, images, images),
            features,
            lambda start, piece: features[1][: len(piece)],
            quantile=0.01,
            device=CPU,
            progress=False,
        ).pixels
        for images in (IMAGES, sharded)
    )
    np.testing.assert_array_equal(one.nearest.index, other.nearest.index)
    np.testing.assert_array_equal(one.nearest.distance, other.nearest.distance)
    assert other.nearest.index[:2].tolist() == [5, 50]
    assert fidelity.hash_of(sharded) == fidelity.hash_of(IMAGES)
