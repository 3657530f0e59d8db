"""The forward process and its posterior, against the chain they summarise."""

import math

import pytest
import torch

from ddpm.diffusion.gaussian import q_posterior, q_sample, transition
from ddpm.diffusion.schedules import SCHEDULES, Schedule, make_schedule

NAMES = sorted(SCHEDULES)


def tensor(*values: int) -> torch.Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("T", [10, 1000])
def test_a_schedule_starts_at_the_image_and_ends_at_noise(name: str, T: int) -> None:
    schedule = make_schedule(name, T)
    assert schedule.T == T
    assert schedule.alphas_bar[0] == 1
    assert bool((schedule.alphas_bar[1:] < schedule.alphas_bar[:-1]).all())
    if T == 1000:
        assert schedule.alphas_bar[-1].sqrt() < 0.01
    t = torch.arange(T + 1)
    assert torch.allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones(T + 1))


def test_linear_is_the_schedule_of_ho_et_al() -> None:
    betas = make_schedule("linear", 1000).betas
    assert betas[1] == pytest.approx(1e-4)
    assert betas[1000] == pytest.approx(0.02)
    assert betas[500] == pytest.approx(1e-4 + (0.02 - 1e-4) * 499 / 999)


def test_cosine_is_the_curve_of_nichol_and_dhariwal() -> None:
    schedule = make_schedule("cosine", 1000)
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    for t in (1, 250, 500, 900):
        assert schedule.alphas_bar[t] == pytest.approx(f[t] / f[0], rel=1e-9)
    assert schedule.betas.max() == 0.999


def test_sigmoid_is_the_curve_of_jabri_et_al() -> None:
    schedule = make_schedule("sigmoid", 1000)

    def s(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    for t in (1, 250, 500, 900):
        expected = (s(3) - s(6 * t / 1000 - 3)) / (s(3) - s(-3))
        assert schedule.alphas_bar[t] == pytest.approx(expected, rel=1e-9)
    assert schedule.alphas_bar[500] == pytest.approx(0.5)


@pytest.mark.parametrize("name", NAMES)
def test_the_marginal_is_what_the_chain_of_steps_gives_in_closed_form(name: str) -> None:
    """Mean factor and variance pushed through T single steps, Ho et al. Eq. 2, equal Eq. 4 at every t."""
    schedule = make_schedule(name, 1000)
    factor, variance = 1.0, 0.0
    for t in range(1, 1001):
        beta = float(schedule.betas[t])
        factor, variance = math.sqrt(1 - beta) * factor, (1 - beta) * variance + beta
        assert float(schedule.alpha(tensor(t))) == pytest.approx(factor, rel=1e-5, abs=1e-9)
        assert float(schedule.sigma(tensor(t))) ** 2 == pytest.approx(variance, rel=1e-5)


def test_the_marginal_is_what_the_chain_of_steps_gives_when_simulated() -> None:
    schedule = make_schedule("linear", 20)
    torch.manual_seed(0)
    n, x_0 = 200_000, 0.7
    x = torch.full((n, 1, 1, 1), x_0)
    for t in range(1, 21):
        beta = schedule.betas[t].float()
        x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn_like(x)
        if t in (1, 7, 20):
            direct = q_sample(schedule, torch.tensor(x_0), tensor(t).expand(n), torch.randn_like(x))
            error = 4 / math.sqrt(n)  # four standard errors of a mean of unit-variance draws
            assert abs(x.mean() - direct.mean()) < error * math.sqrt(2)
            assert abs(x.var() - direct.var()) < 2 * error


@pytest.mark.parametrize("name", NAMES)
def test_the_posterior_of_one_step_is_mu_tilde_and_beta_tilde_of_ho_et_al(name: str) -> None:
    schedule = make_schedule(name, 1000)
    x_0, x_t = torch.randn(2, 1, 3, 4, 4, dtype=torch.float64).unbind()
    for t in (1, 2, 500, 999, 1000):
        beta, bar, bar_before = schedule.betas[t], schedule.alphas_bar[t], schedule.alphas_bar[t - 1]
        mean = bar_before.sqrt() * beta / (1 - bar) * x_0 + (1 - beta).sqrt() * (1 - bar_before) / (1 - bar) * x_t
        variance = (1 - bar_before) / (1 - bar) * beta
        got_mean, got_variance = q_posterior(schedule, x_0, x_t, tensor(t), tensor(t - 1))
        assert torch.allclose(got_mean, mean, atol=2e-5)
        assert float(got_variance) == pytest.approx(float(variance), rel=1e-4)


def test_the_posterior_of_a_long_step_is_bayes_rule() -> None:
    """Product of the two Gaussian densities in x_s, q(x_t | x_s) q(x_s | x_0), normalised."""
    schedule = make_schedule("cosine", 100)
    t, s, x_0, x_t = 80, 30, 0.4, -1.1
    alpha_ts, var_ts = (float(v) for v in transition(schedule, tensor(t), tensor(s)))
    prior_mean, prior_var = float(schedule.alpha(tensor(s))) * x_0, float(schedule.sigma(tensor(s))) ** 2
    precision = 1 / prior_var + alpha_ts**2 / var_ts
    mean = (prior_mean / prior_var + alpha_ts * x_t / var_ts) / precision
    got = q_posterior(schedule, torch.tensor(x_0), torch.tensor(x_t), tensor(t), tensor(s))
    assert float(got[0]) == pytest.approx(mean, rel=1e-5)
    assert float(got[1]) == pytest.approx(1 / precision, rel=1e-5)


def test_two_transitions_make_one() -> None:
    schedule = make_schedule("sigmoid", 100)
    (a1, v1), (a2, v2) = transition(schedule, tensor(60), tensor(20)), transition(schedule, tensor(90), tensor(60))
    a, v = transition(schedule, tensor(90), tensor(20))
    assert torch.allclose(a, a1 * a2, rtol=1e-5)
    assert torch.allclose(v, a2**2 * v1 + v2, rtol=1e-5)


def test_a_schedule_computes_in_float64_and_hands_out_float32() -> None:
    schedule = make_schedule("cosine", 1000)
    assert schedule.alphas_bar.dtype == torch.float64
    assert schedule.alpha(tensor(3)).dtype == torch.float32
    assert isinstance(schedule, Schedule)
