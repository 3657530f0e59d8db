"""A condition is the degraded picture at the image's size, with what is known of it and the level of its noise."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from degraded import squares

from ddpm.degrading import conditions, operators
from ddpm.degrading.pictures import Pictures
from ddpm.degrading.settings import Degradation, ImageCondition
from ddpm.images import LEVELS_PER_UNIT, to_model_range, to_uint8

ALL: tuple[Degradation, ...] = ("super-resolution", "colourise", "inpaint", "denoise")
SETTINGS = ImageCondition(degradations=ALL, factor=2, hole=(0.25, 0.5), noise=(0.0, 40.0))
IMAGES = squares(40, channels=3)


def of_one(kind: Degradation, *, noise: tuple[float, float] = (0.0, 0.0), n: int = 6) -> Any:
    settings = replace(SETTINGS, degradations=(kind,), noise=noise)
    x = to_model_range(torch.from_numpy(IMAGES[:n]))
    chance = conditions.draw(settings, x.shape, generator=torch.Generator().manual_seed(1))
    return x, chance, conditions.degraded(settings, x, chance)


@pytest.mark.parametrize("kind", ["super-resolution", "colourise"])
def test_the_picture_is_what_the_operator_of_restore_leaves(kind: Degradation) -> None:
    x, _, found = of_one(kind)
    operator = operators.average_pooling(2) if kind == "super-resolution" else operators.grey()
    torch.testing.assert_close(found[:, :3], operator.undo(operator.measure(x)))
    assert (found[:, 3] == 1).all(), "all of it is known"
    assert (found[:, 4] == 0).all(), "without noise"


def test_inpainting_hides_a_rectangle_of_the_size_that_is_set() -> None:
    x, chance, found = of_one("inpaint", n=40)
    known = found[:, 3:4] == 1
    assert torch.equal(known, ~chance.hole)
    assert torch.equal(found[:, :3], torch.where(known, x, 0))
    rows, columns = chance.hole.any(3).sum(2), chance.hole.any(2).sum(2)
    assert torch.equal(chance.hole.sum((1, 2, 3)), (rows * columns).flatten()), "rectangles"
    for sides in (rows, columns):
        assert {2, 3, 4} == set(sides.flatten().tolist()), "a quarter to half of 8"


def test_noise_has_the_level_of_which_the_network_is_told() -> None:
    settings = replace(SETTINGS, degradations=("super-resolution",), noise=(10.0, 40.0))
    x = torch.zeros(4000, 3, 8, 8)
    chance = conditions.draw(settings, x.shape, generator=torch.Generator().manual_seed(0))
    found = conditions.degraded(settings, x, chance)
    level = found[:, 4, 0, 0]
    assert float(level.min()) * LEVELS_PER_UNIT == pytest.approx(10, abs=0.1)
    assert float(level.max()) * LEVELS_PER_UNIT == pytest.approx(40, abs=0.1)
    per_level = found[:, :3, ::2, ::2].flatten(1) / level[:, None]
    assert float(per_level.std()) == pytest.approx(1, abs=0.01)
    assert torch.equal(found[:, :3, ::2, ::2], found[:, :3, 1::2, 1::2]), "the noise is that of the small picture"


def test_a_noisy_picture_of_denoise_has_the_range_of_a_file() -> None:
    _, _, found = of_one("denoise", noise=(500.0, 500.0))
    assert (float(found[:, :3].min()), float(found[:, :3].max())) == (-1, 1)


def test_each_image_gets_one_of_the_degradations_and_a_part_of_a_batch_the_same() -> None:
    x = to_model_range(torch.from_numpy(IMAGES))
    chance = conditions.draw(SETTINGS, x.shape, generator=torch.Generator().manual_seed(3))
    assert set(chance.kind.tolist()) == {0, 1, 2, 3}
    whole = conditions.degraded(SETTINGS, x, chance)
    part = slice(7, 19)
    assert torch.equal(conditions.degraded(SETTINGS, x[part], chance.part(part)), whole[part])
    for place, kind in enumerate(ALL):
        alone = conditions.degraded(replace(SETTINGS, degradations=(kind,)), x, chance)
        rows = chance.kind == place
        assert torch.equal(whole[rows], alone[rows])


def test_an_image_keeps_the_known_pixels_of_a_picture_with_a_hole_and_no_others() -> None:
    x, chance, found = of_one("inpaint")
    drawn = torch.full_like(x, 0.5)
    kept = conditions.kept(drawn, found)
    assert torch.equal(kept, torch.where(chance.hole, drawn, x))
    for kind in ("super-resolution", "colourise"):
        assert torch.equal(conditions.kept(drawn, of_one(kind)[2]), drawn)
    *_, noisy = of_one("inpaint", noise=(5.0, 5.0))
    assert torch.equal(conditions.kept(drawn, noisy), drawn), "noise is not kept"
    assert torch.equal(conditions.kept(drawn, None), drawn)
    assert torch.equal(conditions.kept(drawn, torch.zeros_like(found)), drawn), "no picture is no hole"


def pictures(**changes: Any) -> Pictures:
    settings: dict[str, Any] = {"n": 50, "seed": 3, "noise": 0.0} | changes
    return Pictures(SETTINGS, IMAGES, **settings)


def test_a_picture_is_the_same_whenever_it_is_read() -> None:
    whole, again = pictures()[:], pictures()
    assert whole.shape == (50, 5, 8, 8)
    assert torch.equal(again[30:35], whole[30:35])
    assert torch.equal(again[np.array([41, 2])], whole[[41, 2]])
    assert not torch.equal(pictures(seed=4)[:], whole)
    assert [again.picture(k).kind for k in range(5)] == [*ALL, ALL[0]]
    assert torch.equal(again.original(40), again.original(0)), "40 images are taken again"
    assert {tuple(again.original(k).flatten().tolist()) for k in range(40)} == {
        tuple(image.flatten().tolist()) for image in IMAGES
    }
    in_order = pictures(in_order=True, n=40)
    assert all(np.array_equal(in_order.original(k), IMAGES[k]) for k in range(40))


def test_a_picture_of_an_evaluation_is_a_file_of_256_levels_and_so_is_what_is_made_of_it() -> None:
    of_all = pictures()
    for k, channels, size in ((0, 3, 4), (1, 1, 8), (2, 3, 8), (3, 3, 8)):
        picture = of_all.picture(k)
        assert (picture.pixels.dtype, tuple(picture.pixels.shape)) == (torch.uint8, (channels, size, size))
        assert (picture.hole is not None, picture.noise) == (k == 2, 40.0 if k == 3 else 0.0)
    original = to_model_range(of_all.original(0)[None])
    assert torch.equal(of_all.picture(0).pixels, to_uint8(operators.average_pooling(2).measure(original))[0])


def test_noise_is_added_to_all_pictures_but_those_that_have_some_by_themselves() -> None:
    without, noisy = pictures()[:8], pictures(noise=20.0)[:8]
    of_denoise = torch.tensor([k % 4 == 3 for k in range(8)])
    assert torch.equal(noisy[of_denoise], without[of_denoise])
    assert torch.allclose(noisy[~of_denoise, 4], torch.tensor(20.0 / LEVELS_PER_UNIT))
    assert (noisy[~of_denoise, :3] != without[~of_denoise, :3]).any((1, 2, 3)).all()
