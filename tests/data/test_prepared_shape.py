"""Size and channels of the prepared images: from the settings, from the images, or as the caller chooses."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm.data.preparing.picture_file import COLOUR, GREY, NO_HEADER
from ddpm.data.preparing.prepare import prepare
from ddpm.data.preparing.prepared_shape import ChooseSize, keep_own_size, own_size, target_of
from ddpm.data.reading.dataset import Facts, read_facts
from ddpm.errors import UserError
from ddpm.params import load as load_params

DATA = load_params(Path(__file__).parents[2] / "params.yaml").data


def headers(*sides: int, kind: int = COLOUR) -> tuple[np.ndarray, np.ndarray]:
    return np.array(sides, np.int32), np.full(len(sides), kind, np.uint8)


def run(raw: Path, choose_size: ChooseSize = keep_own_size, source: str = "folder", **changes: Any) -> Facts:
    return prepare(
        dataclasses.replace(DATA, source=source, **changes),
        raw=raw,
        prepared=raw.parent / "prepared",
        workers=1,
        progress=False,
        choose_size=choose_size,
    )


def fill(folder: Path, n: int, size: tuple[int, int], mode: str = "RGB") -> Path:
    """n images of noise; `size` is (width, height)."""
    folder.mkdir()
    for k, noise in enumerate(np.random.default_rng(0).integers(0, 256, (n, size[1], size[0], 3), np.uint8)):
        Image.fromarray(noise).convert(mode).save(folder / f"{k}.png")
    return folder


def test_size_and_channels_are_those_of_most_images(tmp_path: Path) -> None:
    raw = fill(tmp_path / "raw", 20, (30, 20), mode="L")
    facts = run(raw)
    assert (facts.size, facts.channels) == (20, 1)
    Image.new("RGB", (64, 64), "red").save(raw / "colour.png")
    facts = run(raw)
    assert (facts.size, facts.channels) == (20, 3)


def test_a_size_is_chosen_that_enlarges_few_images() -> None:
    assert own_size(*headers(20, *range(34, 73))) == 32
    assert own_size(*headers(20, *[40] * 39)) == 40
    assert own_size(*headers(20, 20, *[40] * 18)) == 16


def test_images_without_a_header_do_not_count() -> None:
    sides, kinds = headers(40, 40, 7, 7, 7)
    kinds[2:] = NO_HEADER
    assert own_size(sides, kinds) == 40
    assert own_size(*headers(7, kind=NO_HEADER)) is None


def test_a_few_pixels_need_a_size_to_be_set() -> None:
    with pytest.raises(UserError, match=r"would become 3 pixels.*set data\.size"):
        own_size(*headers(3, 3))
    assert target_of(dataclasses.replace(DATA, size=16), *headers(3, 3), keep_own_size).size == 16


def test_what_is_set_is_not_chosen(tmp_path: Path) -> None:
    facts = run(fill(tmp_path / "raw", 20, (12, 12)), lambda size, channels: 7, size=6, channels=1)
    assert (facts.size, facts.channels, facts.own_size) == (6, 1, None)


def test_the_caller_decides_by_the_images_own_size_and_channels() -> None:
    grey = headers(40, 40, kind=GREY)
    assert target_of(DATA, *grey, lambda size, channels: size // 2 + channels).size == 21
    assert (
        target_of(dataclasses.replace(DATA, channels=3), *grey, lambda size, channels: size // 2 + channels).size == 23
    )


@pytest.mark.parametrize("source", ["folder", "archive"])
def test_images_get_the_chosen_size_and_the_facts_keep_their_own(tmp_path: Path, source: str) -> None:
    raw = fill(tmp_path / "raw", 20, (60, 40))
    if source == "archive":
        raw = Path(shutil.make_archive(str(tmp_path / "images"), "zip", raw))
    facts = run(raw, lambda size, channels: size // 2, source)
    assert (facts.size, facts.own_size) == (20, 40)
    assert read_facts(tmp_path / "prepared") == facts
    facts = run(raw, source=source)
    assert (facts.size, facts.own_size) == (40, None)
