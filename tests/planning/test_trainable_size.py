"""The size that a machine can train: the largest within its limits, found by few measurements, with a reason."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ddpm.params import load as load_params
from ddpm.planning.trainable_size import LADDER, Limits, Training, choose


def machine(hours_at_64: float, gigabytes_at_64: float = 1.0) -> tuple[Callable[[int], Training], list[int]]:
    """A machine whose training takes time and memory by the pixels; and the sizes that were measured."""
    measured: list[int] = []

    def measure(size: int) -> Training:
        assert size not in measured, "a size was measured twice"
        measured.append(size)
        pixels = (size / 64) ** 2
        return Training(3600 * hours_at_64 * pixels, round(gigabytes_at_64 * pixels * 1e9))

    return measure, measured


@pytest.mark.parametrize("own", [33, 40, 48, 100, 200, 256, 257, 3000])
@pytest.mark.parametrize("hours_at_64", [0.001, 0.1, 0.3, 0.7, 2.0, 4.1])
def test_the_largest_size_within_the_limit_is_chosen(own: int, hours_at_64: float) -> None:
    measure, measured = machine(hours_at_64)
    size, _ = choose(own, measure, Limits(3600, 10**12))
    candidates = [*(rung for rung in LADDER if rung < own), *([own] if own <= LADDER[-1] else [])]
    in_time = [candidate for candidate in candidates if hours_at_64 * (candidate / 64) ** 2 <= 0.8]
    assert size == max(in_time, default=min(LADDER))
    assert len(measured) <= 4


def test_memory_limits_the_size_also_without_a_limit_of_time() -> None:
    for free, size in ((6 * 10**9, 96), (10**12, 200)):
        assert choose(200, machine(100.0, gigabytes_at_64=2.0)[0], Limits(None, free))[0] == size


def test_a_size_of_which_not_one_image_fits_is_not_chosen() -> None:
    def measure(size: int) -> Training:
        return Training(360, 10**9) if size <= 48 else Training(math.inf, 1)

    size, reason = choose(200, measure, Limits(None, 10**10))
    assert size == 48
    assert "at 200x200 a training would take more memory than is free" in reason


def test_the_reason_has_the_measured_numbers_and_says_what_to_do() -> None:
    assert choose(200, machine(0.7, 1.25)[0], Limits(3600, 10**10)) == (
        64,
        "the images are 200x200 by themselves; at 200x200 a training would take 6.8 hours and 12.2 GB; at 64x64 it "
        "takes 42 minutes and 1.25 GB (at most 80% of 60 minutes and 10 GB of free memory), so they become 64x64; set "
        "data.size to choose yourself",
    )
    size, reason = choose(3000, machine(0.001)[0], Limits(3600, 10**12))
    assert size == 256
    assert reason.startswith("the images are 3000x3000 by themselves; at 256x256 it takes 58 s")
    size, reason = choose(200, machine(100.0)[0], Limits(3600, 10**12))
    assert size == 32
    assert "even at 32x32 a training of train.images takes 25 hours" in reason
    assert "raise train.max_hours, or lower train.images or network.width" in reason
    size, reason = choose(40, machine(0.1)[0], Limits(None, 10**12))
    assert size == 40
    assert reason.startswith("the images keep their own size, 40x40: a training takes 2.3 minutes and 391 MB (at most")


def test_the_reason_names_the_setting_that_is_exceeded() -> None:
    """Neither a longer train.max_hours nor train.minutes helps where another limit is exceeded."""
    _, reason = choose(200, machine(100.0)[0], Limits(60, 10**12, "train.minutes"))
    assert reason.endswith("they become 32x32: raise train.minutes, or lower train.images or network.width")
    _, reason = choose(200, machine(0.1, gigabytes_at_64=8.0)[0], Limits(3600, 10**9))
    assert reason.endswith("they become 32x32: lower train.batch_size or network.width, or set runtime.device_batch")


def test_a_planned_length_limits_the_time_instead_of_the_longest_one() -> None:
    train = load_params(Path(__file__).parents[2] / "params.yaml").train
    assert Limits.of(replace(train, minutes=None, max_hours=2.0), free=1).seconds == 7200
    assert Limits.of(replace(train, minutes=None, max_hours=None), free=1).seconds is None
    limits = Limits.of(replace(train, minutes=30.0, max_hours=2.0), free=1)
    assert (limits.seconds, limits.setting) == (1800, "train.minutes")
