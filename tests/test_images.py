"""Stored samples and the model's range."""

import math

import pytest
import torch

from ddpm.images import HIGH, LEVEL, LOW, TOP, NotFiniteError, clipped, from_levels, to_levels, to_model_range, to_uint8

EVERY = torch.arange(TOP + 1, dtype=torch.uint8)


def test_every_level_comes_back_from_the_model_s_range_in_which_levels_are_even() -> None:
    x = to_model_range(EVERY)
    assert float(x[0]) == LOW
    assert float(x[-1]) == HIGH
    assert torch.allclose(x.diff(), torch.full((TOP,), LEVEL), atol=1e-6)
    assert torch.equal(to_uint8(x), EVERY)
    assert torch.allclose(to_levels(x), EVERY.float(), atol=1e-4)
    assert torch.allclose(from_levels(EVERY.float()), x, atol=1e-6)


def test_what_lies_beyond_the_range_becomes_its_end_and_between_two_levels_the_nearer() -> None:
    assert to_uint8(torch.tensor([-7.0, 7.0])).tolist() == [0, TOP]
    assert clipped(torch.tensor([-7.0, 0.3, 7.0])).tolist() == [LOW, torch.tensor(0.3).item(), HIGH]
    assert torch.equal(to_uint8(to_model_range(EVERY) + 0.4 * LEVEL), EVERY)


def test_a_sample_of_any_number_of_dimensions_is_stored_alike() -> None:
    for shape in ((2, 128), (2, 4, 32), (2, 4, 4, 8)):
        assert torch.equal(to_model_range(EVERY.view(shape)).flatten(), to_model_range(EVERY))
        assert torch.equal(to_uint8(to_model_range(EVERY).view(shape)), EVERY.view(shape))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_does_not_become_black_or_white(value: float) -> None:
    with pytest.raises(NotFiniteError, match="not finite numbers, so the sampler diverged"):
        to_uint8(torch.tensor([0.0, value]))
