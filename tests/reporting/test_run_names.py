"""A run's name says what was tried."""

import pytest
from hostile import HOSTILE

from ddpm.promotion.registry import Version
from ddpm.reporting.run_names import MOST, differences, name_of
from ddpm.reporting.run_sections import links, samples, tried

CHAMPION = {
    "schedule.name": "cosine",
    "objective.target": "v",
    "network.width": "64",
    "train.images": "60000",
    "train.lr": "0.002",
    "train.seed": "0",
    "sample.sampler": "dpmpp_2m",
    "sample.steps": "10",
    "sample.seed": "0",
    "runtime.device": "auto",
    "dataset.content_hash": "aa",
}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"schedule.name": "linear", "objective.target": "eps", "train.images": "3000"}, "linear, eps, 3k images"),
        ({"sample.sampler": "ddim", "sample.steps": "50"}, "ddim, 50 steps"),
        ({"train.lr": "0.001", "train.seed": "1", "sample.seed": "2"}, "lr 0.001, seed 1, sample seed 2"),
        ({"train.images": "1500000"}, "1.5M images"),
        ({"train.images": "1234"}, "1234 images"),
        ({"dataset.content_hash": "bb"}, "other data"),
        ({"runtime.device": "cuda"}, "same settings as the champion"),
        ({}, "same settings as the champion"),
    ],
)
def test_it_names_the_differences_from_the_champion(changes: dict[str, str], name: str) -> None:
    assert name_of(CHAMPION | changes, CHAMPION) == name


def test_the_first_run_names_schedule_target_and_length() -> None:
    assert name_of(CHAMPION, None) == "cosine, v, 60k images"


def test_many_and_long_differences_are_counted_and_cut() -> None:
    changes = dict.fromkeys(list(CHAMPION)[: MOST + 2], "x" * 500)
    name = name_of(CHAMPION | changes, CHAMPION)
    assert name.endswith(" and 2 more")
    assert len(name) < 250


def test_a_parameter_that_only_one_run_has_is_no_difference() -> None:
    assert differences(CHAMPION | {"train.new": "1"}, CHAMPION | {"train.old": "1"}) == {}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_values_stay_in_their_cell(text: str) -> None:
    version = Version(name="ddpm", number="3", aliases=(), tags={}, run_id=None, created=None)  # type: ignore[arg-type]
    page = tried(CHAMPION | {"train.start": text}, (version, CHAMPION | {"train.start": "none"}))
    [row] = [line for line in page.splitlines() if "train.start" in line]
    assert row.count("|") == 4
    assert "<script" not in page
    assert "](http" not in page
    assert "\n" not in name_of(CHAMPION | {"train.lr": text}, CHAMPION)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_of_models_stay_in_their_link(text: str) -> None:
    version = Version(name=text, number="3", aliases=(), tags={}, run_id=None, created=None)  # type: ignore[arg-type]
    page = links(version, "1", "abc")
    assert len(page.splitlines()) == 2
    assert page.count("](") == 2
    assert "<" not in page + samples("abc")
