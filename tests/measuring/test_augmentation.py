"""The accuracy of a classifier trained on generated images rates these images."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm.errors import UserError
from ddpm.measuring import augmentation
from ddpm.measuring.augmentation import Augmentation, Labelled
from ddpm.params import load as load_params

SETTINGS = dataclasses.replace(
    load_params(Path(__file__).parents[2] / "params.yaml").features, images=3000, batch_size=50, dim=16
)


def stripes(n: int, seed: int, *, noise: float = 30.0) -> Labelled:
    """Three classes of 8x8 images: horizontal, vertical and no stripes."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    at = np.arange(8) // 2 % 2 * 200.0
    clean = np.stack([np.tile(at[:, None], 8), np.tile(at, (8, 1)), np.full((8, 8), 100.0)])[labels]
    images = (clean + noise * draw.normal(size=clean.shape)).clip(0, 255).astype(np.uint8)[:, None]
    return Labelled(images, labels.astype(np.int64))


def measured(real: Labelled, generated: Labelled) -> Augmentation:
    return augmentation.compare(
        real, generated, stripes(150, 9), settings=SETTINGS, device=torch.device("cpu"), progress=False
    )


def test_good_generated_images_teach_and_mislabelled_ones_do_not() -> None:
    good, bad = stripes(120, 1), stripes(120, 2)
    wrong = Labelled(bad.images, (bad.labels + 1) % 3)
    with_good, with_bad = measured(stripes(60, 0), good), measured(stripes(60, 0), wrong)
    assert min(with_good.real, with_good.generated, with_good.both) > 0.9
    assert with_bad.real == with_good.real  # the same training
    assert with_bad.generated < 0.1
    assert with_bad.both < with_good.both
    assert (with_good.real_images, with_good.generated_images, with_good.test_images) == (60, 120, 150)


def test_a_tracker_gets_the_three_accuracies_as_flat_numbers() -> None:
    found = Augmentation(real=0.9, generated=0.8, both=0.95, real_images=6, generated_images=5, test_images=4)
    assert found.numbers() == {
        f"accuracy_trained_on_{name}": value for name, value in (("real", 0.9), ("generated", 0.8), ("both", 0.95))
    }


def test_images_without_classes_have_nothing_to_teach(tmp_path: Path) -> None:
    one = stripes(9, 0)
    np.save(tmp_path / "images.npy", one.images)
    with pytest.raises(UserError, match=r"has no labels\.npy"):
        augmentation.read_generated(tmp_path)
    np.save(tmp_path / "labels.npy", one.labels)
    assert np.array_equal(augmentation.read_generated(tmp_path).labels, one.labels)
    with pytest.raises(UserError, match="no classes for a classifier to learn; set it to false"):
        measured(Labelled(one.images, np.zeros(9, dtype=np.int64)), one)
