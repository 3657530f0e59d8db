"""Copies of training images are found, and held-out real images do not count as copies."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ddpm.measuring import memorization
from ddpm.measuring.memorization import (
    Copies,
    CopiesInEveryWay,
    Nearest,
    compared_numbers,
    find_copies_in_every_way,
    halves,
    shifts,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Real digits in three disjoint parts: 900, 400 and 497."""
    images = np.unique(np.rint(load_digits().images * (255 / 16)).astype(np.uint8)[:, None], axis=0)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[:900]], images[order[900:1300]], images[order[1300:]]


def copies(generated: np.ndarray, digits, quantile: float = 0.05) -> Copies:
    return in_every_way(generated, digits, quantile).pixels


def in_every_way(generated: np.ndarray, digits, quantile: float = 0.01) -> CopiesInEveryWay:
    """Find copies with the pixels as features."""
    train, held_out, _ = digits
    return find_copies_in_every_way(
        (generated, held_out, train),
        (flat(generated), flat(held_out)),
        lambda start, piece: flat(piece),
        quantile=quantile,
        device=CPU,
        progress=False,
    )


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32)


def nearest(items: np.ndarray, train: np.ndarray) -> Nearest:
    return in_every_way(items, (train, items[:1], None)).pixels.nearest


def test_copies_are_found_each_with_its_original_at_distance_zero(digits) -> None:
    order = np.random.default_rng(1).permutation(900)
    found = copies(digits[0][order], digits)
    assert found.share == 1.0
    assert (found.nearest.distance == 0).all()
    assert (found.nearest.index == order).all()


def test_slightly_changed_copies_are_found(digits) -> None:
    noise = np.random.default_rng(1).normal(0, 3, digits[0].shape)
    assert copies(np.clip(digits[0] + noise, 0, 255).astype(np.uint8), digits).share == 1.0


def test_copies_of_one_half_of_the_images_are_a_share_of_a_half(digits) -> None:
    black_to_white = 255 - digits[0][:200]
    assert copies(np.concatenate([digits[0][:200], black_to_white]), digits).share == 0.5


def test_other_real_images_are_copies_about_as_often_as_the_quantile_says(digits) -> None:
    found = copies(digits[2], digits)
    # 497 draws of a share of 0.05, whose limit is itself drawn from 400: standard deviation 0.015
    assert abs(found.share - 0.05) < 3 * 0.015
    assert found.held_out_share == pytest.approx(0.05, abs=1 / 400)


def test_with_doubles_in_the_held_out_images_copies_are_still_found(digits) -> None:
    train, _, _ = digits
    found = copies(train, (train, train[:100], None), quantile=0.5)
    assert found.limit == 0
    assert found.share == 1.0


@pytest.mark.parametrize("rows", [7, 64, 4096])
def test_chunks_change_nothing(rows: int, digits, monkeypatch: pytest.MonkeyPatch) -> None:
    train, held_out, _ = digits
    items, references = (x.reshape(len(x), -1).astype(np.float64) for x in (held_out, train))
    square = ((items[:, None] - references[None]) ** 2).mean(axis=2)
    monkeypatch.setattr(memorization, "CHUNK_ROWS", rows)
    found = nearest(held_out, train)
    assert (found.index == square.argmin(axis=1)).all()
    assert np.abs(found.distance - np.sqrt(square.min(axis=1))).max() < 1e-4


def test_memory_mapped_arrays_are_searched(digits, tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", digits[0])
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    found = nearest(mapped[:10], mapped)
    assert (found.index == np.arange(10)).all()


def test_features_are_searched_the_same_way() -> None:
    features = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    images, near = np.zeros((50, 1, 4, 4), np.uint8), features + np.float32(0.001)
    found = find_copies_in_every_way(
        (images, images, images),
        (near, near),
        lambda start, piece: features[start : start + len(piece)],
        quantile=0.5,
        device=CPU,
        progress=False,
    ).features.nearest
    assert (found.index == np.arange(50)).all()
    assert np.abs(found.distance - 0.001).max() < 1e-6


SHIFTS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]


@pytest.mark.parametrize("border", [0, 128, 255, "wrapped"])
def test_a_copy_shifted_by_a_pixel_is_found_whatever_the_pixels_at_the_border_are(border, digits) -> None:
    train, _, fresh = digits
    count = 60 * len(SHIFTS)
    stolen = np.stack(
        [np.roll(image, SHIFTS[k % len(SHIFTS)], axis=(1, 2)) for k, image in enumerate(train[:count])]
    )  # fmt: skip
    for k, image in enumerate(stolen):
        down, right = SHIFTS[k % len(SHIFTS)]
        if border != "wrapped":
            image[:, [0 if down > 0 else -1][: abs(down)]] = border
            image[:, :, [0 if right > 0 else -1][: abs(right)]] = border
    found = in_every_way(np.concatenate([stolen, fresh[:300]]), digits)
    assert found.pixels.is_copy[:count].mean() < 0.25  # one in nine is not shifted at all
    assert found.shifted.is_copy[:count].all()
    assert (found.shifted.nearest.distance[:count] == 0).all()
    assert (found.shifted.nearest.index[:count] == np.arange(count)).all()
    assert found.shifted.is_copy[count:].mean() < 0.04


def test_a_mirrored_copy_is_found_beside_a_plain_one_and_the_other_ways_miss_it(digits) -> None:
    train, _, fresh = digits
    stolen = train[:200].copy()
    stolen[::2] = stolen[::2, :, :, ::-1]
    found = in_every_way(np.concatenate([stolen, fresh]), digits)
    assert found.mirrored.is_copy[:200].all()
    assert (found.mirrored.nearest.distance[:200] == 0).all()
    # A digit may be the mirror image of another one, so either may be found.
    assert (found.mirrored.nearest.index[:200] == np.arange(200)).mean() > 0.97
    assert found.pixels.is_copy[:200].mean() < 0.65
    assert found.mirrored.is_copy[200:].mean() < 0.04


@pytest.mark.parametrize("which", range(4))
def test_a_copied_half_is_found_beside_a_half_of_another_image(which: int, digits) -> None:
    train, _, fresh = digits
    window = halves(train.shape)[which].item
    stolen = fresh[:200].copy()
    stolen[(..., *window)] = train[(np.arange(200), slice(None), *window)]
    found = in_every_way(np.concatenate([stolen, fresh[200:]]), digits)
    assert found.pixels.is_copy[:200].mean() < 0.1
    assert found.half.is_copy[:200].all()
    assert (found.half.nearest.distance[:200] == 0).all()
    # Two digits may have exactly equal upper halves, so either may be found.
    assert (found.half.nearest.index[:200] == np.arange(200)).mean() > 0.97
    assert found.half.is_copy[200:].mean() < 0.04


def test_a_slightly_changed_shifted_or_half_copy_is_found(digits) -> None:
    train, _, fresh = digits
    shifted, joined = np.roll(train[:200], 1, axis=3).astype(float), fresh[:200].astype(float)
    joined[..., :4] = train[:200, ..., :4]
    noise = np.random.default_rng(1).normal(0, 3, (400, 1, 8, 8))
    found = in_every_way(np.clip(np.concatenate([shifted, joined]) + noise, 0, 255).astype(np.uint8), digits)
    assert found.shifted.is_copy[:200].all()
    assert found.half.is_copy[200:].all()


@pytest.mark.parametrize("way", ["pixels", "features", "shifted", "mirrored", "half"])
def test_real_images_count_as_copies_in_each_way_as_often_as_the_quantile_says(way: str, digits) -> None:
    found = getattr(in_every_way(digits[2], digits, quantile=0.05), way)
    assert found.held_out_share == pytest.approx(0.05, abs=1 / 400)
    assert abs(found.share - 0.05) < 3 * 0.015  # as above


@pytest.mark.parametrize("noise", [0, 1])
def test_a_blank_half_is_no_copy_and_hides_none(noise: int, digits) -> None:
    """The lower half of every second image, training and held out, is blank."""
    random = np.random.default_rng(0)

    def blank_below(images: np.ndarray) -> np.ndarray:
        images = images.copy()
        images[::2, :, 4:] = random.integers(0, noise + 1, images[::2, :, 4:].shape)
        return images

    train, held_out, fresh = (blank_below(part) for part in digits)
    stolen = fresh[:200].copy()
    stolen[:, :, :4] = train[:200, :, :4]
    found = in_every_way(np.concatenate([stolen, fresh[200:]]), (train, held_out, fresh))
    assert found.half.held_out_share < 0.02
    assert found.half.is_copy[:200].all()
    assert found.half.is_copy[200:].mean() < 0.04


@pytest.mark.parametrize("colour", [(0,), (255,), (90, 140, 255)])
def test_an_image_of_one_colour_is_no_copy_by_halves(colour: tuple[int, ...], digits) -> None:
    train, held_out, _ = (part.repeat(len(colour), axis=1) for part in digits)
    even = np.broadcast_to(np.array(colour, np.uint8)[:, None, None], (50, len(colour), 8, 8))
    found = in_every_way(even, (np.concatenate([train, even]), held_out, None))
    assert found.pixels.share == 1.0
    assert found.half.share == 0.0
    nothing = in_every_way(even, (even, even, None))
    assert (nothing.half.limit, nothing.half.share, nothing.half.held_out_share) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("views", [shifts, halves])
@pytest.mark.parametrize("rows", [7, 4096])
def test_views_are_those_of_all_pairs_compared_one_by_one(rows: int, views, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    items, train = (random.integers(0, 256, (n, 3, 7, 5)).astype(np.uint8) for n in (20, 30))
    monkeypatch.setattr(memorization, "CHUNK_ROWS", rows)
    ways = in_every_way(items, (train, items, None))
    if views is shifts:
        found, per_contrast = ways.shifted.nearest, False
        windows = [((1, 6, 1, 4), (y, y + 5, x, x + 3)) for y in range(3) for x in range(3)]
    else:
        found, per_contrast = ways.half.nearest, True
        windows = [(w, w) for w in ((0, 7, 0, 2), (0, 7, 3, 5), (0, 3, 0, 5), (4, 7, 0, 5))]
    every = np.array(
        [
            [min(_apart(item, mine, other, theirs, per_contrast) for mine, theirs in windows) for other in train]
            for item in items
        ]
    )  # fmt: skip
    assert (found.index == every.argmin(axis=1)).all()
    assert np.abs(found.distance - every.min(axis=1)).max() < 1e-4


def _apart(
    item: np.ndarray, mine: tuple[int, ...], other: np.ndarray, theirs: tuple[int, ...], per_contrast: bool
) -> float:
    (a, b, c, d), (e, f, g, h) = mine, theirs
    part = item[:, a:b, c:d].astype(float)
    distance = np.sqrt(np.mean((part - other[:, e:f, g:h]) ** 2))
    return float(distance / np.sqrt(part.var(axis=(1, 2)).mean()) if per_contrast else distance)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_images_of_very_few_pixels_are_compared_whole(size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 1, size, size)).astype(np.uint8)
    found = in_every_way(images, (images, 255 - images, None))
    assert found.shifted.share == 1.0
    assert found.half.share == (0.0 if size == 1 else 1.0)  # a pixel has no contrast


def test_the_numbers_that_the_ways_compare_are_those_of_whole_shifted_mirrored_and_half_images() -> None:
    whole, inner = 3 * 32 * 32, 3 * 30 * 30
    assert compared_numbers((3, 32, 32)) == (1 + 2 + 2) * whole + 9 * inner
