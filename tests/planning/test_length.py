"""A training for a given time gets one length, which is recorded; everything that depends on the length follows it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ddpm.errors import UserError
from ddpm.params import load as load_params
from ddpm.planning import length
from ddpm.training import finished
from ddpm.training.settings import Train, determining

TRAIN = load_params(Path(__file__).parents[2] / "params.yaml").train


def in_minutes(minutes: float) -> Train:
    return dataclasses.replace(TRAIN, minutes=minutes)


def test_a_training_of_another_length_decays_and_averages_over_the_same_share() -> None:
    longer = length.fitted(TRAIN, 6 * TRAIN.images)
    assert (longer.images, longer.decay_images) == (6 * TRAIN.images, 6 * TRAIN.decay_images)
    assert longer.ema_halflife_images == 6 * TRAIN.ema_halflife_images
    assert longer.warmup_images == TRAIN.warmup_images
    length.fitted(TRAIN, 10)  # a plan of a few steps is still a valid one


def test_the_length_is_the_whole_steps_that_fit_into_the_time() -> None:
    planned = length.planned_for(in_minutes(10), seconds_per_step=0.5)
    images = planned.lengths["images"]
    assert images % TRAIN.batch_size == 0
    assert 0.95 * 600 <= images / TRAIN.batch_size * 0.5 <= 600
    settings = planned.settings(in_minutes(10))
    assert settings == length.fitted(TRAIN, images), "a training of this length without minutes is the same one"


def test_a_time_in_which_not_even_one_step_fits_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.minutes is 0\.1, but one step of 128 images takes 60 s; raise"):
        length.planned_for(in_minutes(0.1), seconds_per_step=60)


def test_a_recorded_length_is_read_as_it_was_written_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    assert length.recorded(tmp_path) is None
    planned = length.planned_for(in_minutes(10), seconds_per_step=0.123456789)
    length.record(tmp_path, planned)
    assert length.recorded(tmp_path) == planned
    (tmp_path / finished.PLANNED).write_text('{"minutes": 10}')
    with pytest.raises(UserError, match="is not the planned length"):
        length.recorded(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"images": -128},
        {"images": 10**30},
        {"images": float("inf")},
        {"images": 0.5},
        {"images": True},
        {"ema_halflife_images": 0},
        {"decay_images": 10**9},
        {"warmup_images": None},
    ],
)
def test_a_recorded_length_with_which_nothing_can_be_trained_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    planned = length.planned_for(in_minutes(10), seconds_per_step=0.5)
    values = planned.described() | {"lengths": dict(planned.lengths) | change}
    (tmp_path / finished.PLANNED).write_text(json.dumps(values))
    with pytest.raises(UserError, match="is not the planned length"):
        length.recorded(tmp_path)


def test_the_lines_for_params_yaml_have_every_length_and_end_the_planning() -> None:
    planned = length.planned_for(in_minutes(10), seconds_per_step=0.5)
    lines = planned.as_yaml()
    assert lines[0] == "train:"
    assert f"  images: {planned.lengths['images']}" in lines
    assert "  minutes: null" in lines
    assert len(lines) == 6


def test_max_hours_is_no_part_of_what_determines_a_training() -> None:
    other = dataclasses.replace(TRAIN, max_hours=77.0)
    assert determining(other) == determining(TRAIN)
    assert determining(in_minutes(10)) != determining(TRAIN)
