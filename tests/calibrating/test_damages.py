"""Damages change what they say and nothing else, in steps that grow, and the same ones each time."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddpm.calibrating import damages
from ddpm.calibrating.damages import Damage

N, CLASSES = 200, 5
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (N, 3, 16, 16), np.uint8)
LABELS = RANDOM.integers(0, CLASSES, N)


def found(labels: np.ndarray | None = LABELS) -> dict[str, Damage]:
    return {damage.name: damage for damage in damages.damages(IMAGES, labels)}


@pytest.mark.parametrize("name", ["blur", "noise", "halves", "missing_classes", "repetition"])
def test_every_step_has_all_images_begins_with_none_and_hits_more_than_the_step_before(name: str) -> None:
    damage = found()[name]
    sets = [damage.images[step.rows] for step in damage.steps]
    assert np.array_equal(sets[0], IMAGES)
    assert not damage.steps[0].hit.any()
    for before, step, images in zip(damage.steps, damage.steps[1:], sets[1:], strict=False):
        assert images.shape == IMAGES.shape
        assert not (before.hit & ~step.hit).any(), "a heavier step spares an image that a lighter one hits"
        assert np.array_equal(images[~step.hit], IMAGES[~step.hit]), "an image that is not hit has changed"
    assert len(damage.steps) == (3 if name == "missing_classes" else 5)
    assert damage.steps[-1].hit.mean() > 0.3


def test_the_images_to_look_at_are_hit_as_often_as_all_images() -> None:
    for damage in found().values():
        for step in damage.steps:
            assert abs(step.hit[damage.shown].mean() - step.hit.mean()) <= 0.5 / len(damage.shown) + 1e-9


def test_damages_are_the_same_each_time() -> None:
    for one, other in zip(found().values(), found().values(), strict=True):
        assert np.array_equal(one.images, other.images)
        assert all(np.array_equal(a.rows, b.rows) for a, b in zip(one.steps, other.steps, strict=True))


def test_blur_is_that_of_scipy() -> None:
    for sigma in (0.5, 1.3):
        expected = gaussian_filter(
            IMAGES.astype(float), (0, 0, sigma, sigma), mode="nearest", radius=int(3 * sigma + 1)
        )
        assert np.abs(damages._blurred(IMAGES, sigma).astype(float) - expected).max() < 1


def test_missing_classes_are_gone_and_no_other_image_is_there_more_than_twice() -> None:
    damage = found()["missing_classes"]
    for count, step in enumerate(damage.steps):
        assert len(np.unique(LABELS[step.rows])) == CLASSES - min(count, 2), step.caption
    assert np.bincount(damage.steps[1].rows).max() <= 2


def test_without_classes_no_class_can_be_missing() -> None:
    assert "missing_classes" not in found(None)
    assert "missing_classes" not in found(np.zeros(N, np.int64))


def test_repetition_leaves_as_many_different_images_as_the_caption_says() -> None:
    for step in found()["repetition"].steps[1:]:
        assert len(np.unique(step.rows)) == int(step.caption.split()[0])


def test_copies_are_training_images_in_the_places_that_are_hit() -> None:
    train = RANDOM.integers(0, 256, (150, 3, 16, 16), np.uint8)
    for step in (damage := damages.copies(IMAGES, train)).steps:
        images = damage.images[step.rows]
        copied = np.array([(image == train).all(axis=(1, 2, 3)).any() for image in images])
        assert np.array_equal(copied, step.hit)
