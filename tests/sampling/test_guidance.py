"""Guidance, clipping and thresholding of denoisers whose estimates are known."""

import math

import pytest
import torch
from torch import Tensor

from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.processes import VarianceExploding
from ddpm.diffusion.sample_shape import per_sample
from ddpm.diffusion.schedules import make_schedule
from ddpm.sampling.guidance import (
    ConditionalDenoise,
    autoguided,
    classifier_free,
    clipped,
    rescaled,
    thresholded,
    within,
)

LABELS = torch.tensor([0.2, 0.4])
X, T = torch.zeros(2, 1, 4, 4), torch.tensor([500, 500])
PATTERN = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
FRACTION = torch.full_like(X, 0.3)


def by_label(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Estimate:
    """A pattern of the label's strength; without a label, zero."""
    return Estimate(torch.zeros_like(x_t) if labels is None else per_sample(labels, x_t) * PATTERN, FRACTION)


def test_guidance_goes_on_in_the_direction_of_the_label() -> None:
    guided = classifier_free(by_label, scale=3.0)
    assert torch.allclose(guided(X, T, LABELS).x_0, 3 * by_label(X, T, LABELS).x_0)
    assert torch.equal(guided(X, T, None).x_0, torch.zeros_like(X))
    assert classifier_free(by_label, scale=1.0) is by_label
    assert clipped(guided)(10 * X, T, 5 * LABELS).x_0.abs().max() == 1


def test_autoguidance_goes_away_from_the_weaker_model() -> None:
    def weaker(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Estimate:
        return Estimate(by_label(x_t, t, labels).x_0 + 0.1)

    guided = autoguided(by_label, weaker, scale=2.0)
    assert torch.allclose(guided(X, T, LABELS).x_0, by_label(X, T, LABELS).x_0 - 0.1)
    assert torch.allclose(guided(X, T, None).x_0, torch.full_like(X, -0.1))  # a model without labels can be guided, too


def test_the_variance_stays_that_of_the_conditional_estimate() -> None:
    def weaker(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Estimate:
        return Estimate(torch.zeros_like(x_t), torch.ones_like(x_t))

    for guided in (classifier_free(by_label, scale=3.0), autoguided(by_label, weaker, scale=3.0)):
        for bounded in (clipped(guided), thresholded(guided, quantile=0.9)):
            assert bounded(X, T, LABELS).fraction is FRACTION


def test_where_guidance_is_off_the_weaker_model_is_not_asked() -> None:
    def forbidden(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Estimate:
        raise AssertionError("asked the weaker model")

    for guided in (
        autoguided(by_label, forbidden, scale=1.0),
        autoguided(by_label, forbidden, scale=3.0, active=lambda t: False),
    ):
        assert torch.equal(guided(X, T, LABELS).x_0, by_label(X, T, LABELS).x_0)


def test_an_interval_guides_at_its_noise_levels_only() -> None:
    process = VarianceExploding(0.002, 80.0)
    guided: ConditionalDenoise = classifier_free(by_label, scale=3.0, active=within(process, (0.3, 2.0)))
    for sigma, scale in ((0.1, 1), (0.29, 1), (0.31, 3), (2.0, 3), (2.01, 1), (80.0, 1)):
        t = torch.full((2,), sigma)
        assert torch.allclose(guided(X, t, LABELS).x_0, scale * by_label(X, t, LABELS).x_0), sigma


def test_an_interval_without_an_end_holds_where_nothing_of_the_image_is_left() -> None:
    process = make_schedule("cosine", 1000, zero_terminal=True)
    assert within(process, (0.5, math.inf))(torch.tensor([1000, 1000]))
    assert not within(process, (0.5, 10.0))(torch.tensor([1000, 1000]))


def test_rescaling_takes_the_added_contrast_back() -> None:
    """Lin et al. 2023, Eq. 15 and 16, for each image separately."""
    conditional = by_label(X, T, LABELS).x_0
    for share in (0.0, 0.7, 1.0):
        x_0 = classifier_free(by_label, scale=3.0, rescale=share)(X, T, LABELS).x_0
        assert torch.allclose(x_0, (share * 1 + (1 - share) * 3) * conditional)
    guided = 3 * conditional
    assert rescaled(guided, conditional, share=0.0) is guided


@pytest.mark.parametrize("strength", [0.5, 4.0])
def test_dynamic_thresholding_keeps_the_range_and_the_small_values(strength: float) -> None:
    """Saharia et al. 2022: images within the range are unchanged; others are scaled, not only clipped."""
    made = strength * PATTERN.expand(2, -1, -1, -1)
    x_0 = thresholded(lambda x_t, t, labels: Estimate(made), quantile=0.75)(X, T, None).x_0
    if strength <= 1:
        assert torch.equal(x_0, made)
        return
    s = made[0].abs().flatten().quantile(0.75)
    assert s > 1
    assert x_0.abs().max() == 1
    inner = made.abs() < s
    assert torch.allclose(x_0[inner], made[inner] / s)


def test_dynamic_thresholding_takes_every_image_by_itself() -> None:
    made = torch.stack([PATTERN[0] * 0.5, PATTERN[0] * 8])
    x_0 = thresholded(lambda x_t, t, labels: Estimate(made), quantile=0.9)(X, T, None).x_0
    assert torch.equal(x_0[0], made[0])


def test_a_scale_of_zero_asks_the_unconditional_model_alone() -> None:
    asked: list[Tensor | None] = []

    def counted(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Estimate:
        asked.append(labels)
        return by_label(x_t, t, labels)

    assert torch.equal(classifier_free(counted, scale=0.0)(X, T, LABELS).x_0, torch.zeros_like(X))
    assert asked == [None]
    off = classifier_free(by_label, scale=0.0, active=lambda t: False)
    assert torch.equal(off(X, T, LABELS).x_0, by_label(X, T, LABELS).x_0)
