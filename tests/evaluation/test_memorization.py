"""Copies of training images are found, and real images that nobody trained on are not taken for copies."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ddpm.evaluation import memorization
from ddpm.evaluation.memorization import Copies, find_copies, nearest

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Real digits in three parts: 900, 400 and 497, none in two of them."""
    images = np.unique(np.rint(load_digits().images * (255 / 16)).astype(np.uint8)[:, None], axis=0)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[:900]], images[order[900:1300]], images[order[1300:]]


def copies(generated: np.ndarray, digits, quantile: float = 0.05) -> Copies:
    train, held_out, _ = digits
    return find_copies(generated, held_out, train, quantile=quantile, device=CPU, progress=False, space="pixels")


def test_copies_are_found_each_with_its_original_at_distance_zero(digits) -> None:
    order = np.random.default_rng(1).permutation(900)
    found = copies(digits[0][order], digits)
    assert found.share == 1.0
    assert (found.nearest.distance == 0).all()
    assert (found.nearest.index == order).all()


def test_slightly_changed_copies_are_found(digits) -> None:
    noise = np.random.default_rng(1).normal(0, 3, digits[0].shape)
    assert copies(np.clip(digits[0] + noise, 0, 255).astype(np.uint8), digits).share == 1.0


def test_half_copies_are_a_share_of_a_half(digits) -> None:
    black_to_white = 255 - digits[0][:200]
    assert copies(np.concatenate([digits[0][:200], black_to_white]), digits).share == 0.5


def test_other_real_images_are_copies_about_as_often_as_the_quantile_says(digits) -> None:
    found = copies(digits[2], digits)
    # 497 draws of a share of 0.05, whose limit is itself drawn from 400: standard deviation 0.015
    assert abs(found.share - 0.05) < 3 * 0.015
    assert found.held_out_share == pytest.approx(0.05, abs=1 / 400)


def test_with_doubles_in_the_held_out_images_copies_are_still_found(digits) -> None:
    train, _, _ = digits
    found = find_copies(train, train[:100], train, quantile=0.5, device=CPU, progress=False, space="pixels")
    assert found.limit == 0
    assert found.share == 1.0


@pytest.mark.parametrize("rows", [7, 64, 4096])
def test_chunks_change_nothing(rows: int, digits, monkeypatch: pytest.MonkeyPatch) -> None:
    train, held_out, _ = digits
    items, references = (x.reshape(len(x), -1).astype(np.float64) for x in (held_out, train))
    square = ((items[:, None] - references[None]) ** 2).mean(axis=2)
    monkeypatch.setattr(memorization, "CHUNK_ROWS", rows)
    found = nearest(held_out, train, device=CPU, progress=False, what="")
    assert (found.index == square.argmin(axis=1)).all()
    assert np.abs(found.distance - np.sqrt(square.min(axis=1))).max() < 1e-4


def test_memory_mapped_arrays_are_searched(digits, tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", digits[0])
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    found = nearest(mapped[:10], mapped, device=CPU, progress=False, what="")
    assert (found.index == np.arange(10)).all()


def test_features_are_searched_the_same_way() -> None:
    features = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    found = nearest(features + np.float32(0.001), features, device=CPU, progress=False, what="")
    assert (found.index == np.arange(50)).all()
    assert np.abs(found.distance - 0.001).max() < 1e-6
