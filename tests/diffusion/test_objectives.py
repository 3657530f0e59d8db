"""Targets, their conversions, and the weights, against their definitions."""

import pytest
import torch

from ddpm.diffusion.gaussian import q_sample
from ddpm.diffusion.objectives import TARGETS, TO_X_0, WEIGHTS, Objective, eps_from_x_0
from ddpm.diffusion.schedules import SCHEDULES, make_schedule


@pytest.mark.parametrize("schedule_name", sorted(SCHEDULES))
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_every_target_leads_back_to_image_and_noise(target: str, schedule_name: str) -> None:
    schedule = make_schedule(schedule_name, 1000)
    t = torch.tensor([1, 100, 500, 900])
    x_0, eps = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    x_t = q_sample(schedule, x_0, t, eps)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    prediction = TARGETS[target](x_0, eps, alpha, sigma)
    back = TO_X_0[target](prediction, x_t, alpha, sigma)
    # Rounding of float32 is amplified by 1/alpha in x_0 and by 1/sigma in eps.
    assert ((back - x_0).abs() * alpha).max() < 5e-6
    assert ((eps_from_x_0(back, x_t, alpha, sigma) - eps).abs() * sigma).max() < 2e-5


@pytest.mark.parametrize("weight", sorted(WEIGHTS))
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_the_exact_prediction_has_no_loss(target: str, weight: str) -> None:
    schedule = make_schedule("cosine", 1000)
    t = torch.tensor([1, 500, 1000])
    x_0, eps = torch.randn(2, 3, 1, 4, 4).unbind()
    exact = TARGETS[target](x_0, eps, schedule.alpha(t), schedule.sigma(t))
    loss = Objective(target, weight, 5.0).loss(lambda x_t, t: exact, schedule, x_0=x_0, t=t, eps=eps)
    assert loss.shape == (3,)
    assert torch.equal(loss, torch.zeros(3))


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_min_snr_weighs_the_same_error_in_x_0_alike_for_every_target(target: str) -> None:
    """Hang et al. 2023: min(SNR, gamma) |x_0 - x_0_hat|^2, whatever the network predicts."""
    schedule = make_schedule("cosine", 1000)
    gamma = 5.0
    t = torch.tensor([50, 300, 700, 950])
    x_0, eps = torch.randn(2, 4, 1, 4, 4, dtype=torch.float32).unbind()
    x_0_hat = x_0 + 0.1 * torch.randn_like(x_0)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x_t = q_sample(schedule, x_0, t, eps)
    prediction = TARGETS[target](x_0_hat, eps_from_x_0(x_0_hat, x_t, alpha, sigma), alpha, sigma)
    loss = Objective(target, "min_snr", gamma).loss(lambda x, t: prediction, schedule, x_0=x_0, t=t, eps=eps)
    expected = (schedule.snr(t).clamp(max=gamma) * (x_0 - x_0_hat) ** 2).mean(dim=(1, 2, 3))
    assert torch.allclose(loss, expected, rtol=1e-3)


def test_simple_on_eps_is_the_loss_of_ho_et_al() -> None:
    schedule = make_schedule("linear", 1000)
    t = torch.tensor([1, 400])
    x_0, eps, guess = torch.randn(3, 2, 1, 4, 4).unbind()
    loss = Objective("eps", "simple", 5.0).loss(lambda x_t, t: guess, schedule, x_0=x_0, t=t, eps=eps)
    assert torch.allclose(loss, ((eps - guess) ** 2).mean(dim=(1, 2, 3)))


def test_the_loss_is_computed_in_float32_when_the_network_answers_in_bf16() -> None:
    schedule = make_schedule("cosine", 10)
    x_0, eps = torch.randn(2, 2, 1, 4, 4).unbind()
    objective = Objective("v", "min_snr", 5.0)
    loss = objective.loss(lambda x_t, t: x_t.bfloat16(), schedule, x_0=x_0, t=torch.tensor([1, 9]), eps=eps)
    assert loss.dtype == torch.float32
