"""Likelihoods of data whose density is known: the bound and the ODE are two ways to it, and both agree with it."""

import math
from collections.abc import Callable

import pytest
import torch
from exact import normal
from sklearn.datasets import load_digits
from torch import Tensor

from ddpm.diffusion.bound import Estimate, discretized_gaussian_nll, gaussian_kl
from ddpm.diffusion.gaussian import q_posterior, transition
from ddpm.diffusion.processes import LinearPath, Process, VarianceExploding
from ddpm.diffusion.sample_shape import per_sample
from ddpm.diffusion.schedules import make_continuous_schedule, make_schedule
from ddpm.images import to_model_range
from ddpm.sampling.grids import log_snr
from ddpm.sampling.likelihood import log_likelihood, ode_bound, prior_term, variational_bound
from ddpm.sampling.samplers import Denoise

MEAN, STD = 0.1, 0.25
PROCESSES: dict[str, Process] = {
    "chain": make_schedule("linear", 1000),
    "vp": make_continuous_schedule("cosine", 1.0),
    "zero terminal": make_continuous_schedule("cosine", 1.0, zero_terminal=True),
    "exploding": VarianceExploding(0.002, 80.0),
    "path": LinearPath(1.0),
}


def denoise(process: Process, x_t: Tensor, t: Tensor, *, std: float = STD) -> Tensor:
    """E[x_0 | x_t] for x_0 ~ N(MEAN, std^2)."""
    t = per_sample(t, x_t)
    alpha, sigma = process.alpha(t), process.sigma(t)
    return MEAN + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x_t - alpha * MEAN)


def exact(process: Process) -> Denoise:
    """The true p(x_s | x_t) for s = t - 1: its mean is linear in x_0 and its variance lies between the two betas."""

    def estimate(x_t: Tensor, t: Tensor) -> Estimate:
        times, t = t, per_sample(t, x_t)
        s = t - 1
        alpha, sigma = process.alpha(t), process.sigma(t)
        _, tilde = q_posterior(process, x_t, x_t, t, s)
        _, beta = transition(process, t, s)
        spread = STD**2 * sigma**2 / (alpha**2 * STD**2 + sigma**2)  # Var[x_0 | x_t]
        variance = tilde + (process.alpha(s) * beta / sigma**2) ** 2 * spread
        if bool((s == 0).all()):
            tilde = q_posterior(process, x_t, x_t, t + 1, t)[1]  # see `reverse_log_variance`
        return Estimate(denoise(process, x_t, times), (variance / tilde).log() / (beta / tilde).log())

    return estimate


def levels(n: int, shape: tuple[int, ...], *, seed: int = 0) -> Tensor:
    """Images of the 256 levels, near N(MEAN, STD^2)."""
    x = MEAN + STD * torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))
    return ((x + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def test_the_kl_of_normals_is_torchs() -> None:
    mean, log_var = torch.randn(2, 5), torch.randn(2, 5)
    p, q = (torch.distributions.Normal(m, (v / 2).exp()) for m, v in zip(mean, log_var, strict=True))
    expected = torch.distributions.kl_divergence(q, p)
    assert torch.allclose(gaussian_kl(mean[1], log_var[1], mean[0], log_var[0]), expected, atol=1e-5)


@pytest.mark.parametrize("std", [0.003, 0.1, 2.0])
def test_the_masses_of_all_levels_sum_to_one(std: float) -> None:
    x_0 = torch.arange(256) / 127.5 - 1
    nll = discretized_gaussian_nll(x_0, torch.full_like(x_0, 0.3), torch.full_like(x_0, 2 * math.log(std)))
    assert float((-nll).exp().sum()) == pytest.approx(1, abs=1e-4)
    assert int(nll[1:-1].argmin()) + 1 == round(1.3 * 127.5)


def test_the_bound_meets_the_closed_form_when_the_reverse_process_is_exact() -> None:
    process, x_0 = make_schedule("cosine", 100), levels(4000, (1, 4, 4))
    generator = torch.Generator().manual_seed(1)
    grid = list(range(100, -1, -1))
    bound = variational_bound(exact(process), process, x_0, grid, lambda: torch.randn(x_0.shape, generator=generator))
    truth = discretized_gaussian_nll(x_0, torch.tensor(MEAN), torch.tensor(2 * math.log(STD)))
    bits = truth.flatten(1).mean(dim=1) / math.log(2)
    assert bound.steps.shape == (4000, 100)
    assert torch.allclose(bound.total, bound.prior + bound.steps.sum(dim=1))
    assert float(bound.total.mean()) == pytest.approx(float(bits.mean()), abs=0.02)  # three standard errors
    assert float(bound.prior.max()) < 1e-4


def test_the_bound_is_above_the_truth_for_a_wrong_model_and_for_a_wrong_variance() -> None:
    process, x_0 = make_schedule("cosine", 100), levels(300, (1, 4, 4))
    grid = list(range(100, -1, -1))

    def total(estimate: Denoise) -> float:
        generator = torch.Generator().manual_seed(1)
        noise = lambda: torch.randn(x_0.shape, generator=generator)  # noqa: E731
        return float(variational_bound(estimate, process, x_0, grid, noise).total.mean())

    best = total(exact(process))
    right = exact(process)
    assert total(lambda x, t: right(x, t)._replace(fraction=0.0)) > best + 0.02
    assert total(lambda x, t: right(x, t)._replace(fraction=1.0)) > best + 0.02
    assert total(lambda x, t: right(x, t)._replace(x_0=denoise(process, x, t, std=0.6))) > best + 0.02


@pytest.mark.parametrize("name", sorted(PROCESSES))
@pytest.mark.parametrize("hutchinson", [False, True])
def test_the_ode_meets_the_closed_form_in_every_process(name: str, hutchinson: bool) -> None:
    process = PROCESSES[name]
    generator = torch.Generator().manual_seed(2)
    x = MEAN + STD * torch.randn(20, 1, 2, 2, generator=generator)
    *grid, _ = log_snr(process, 120)

    def signs() -> Tensor:
        return torch.randint(0, 2, x.shape, generator=generator) * 2.0 - 1

    got = log_likelihood(
        lambda x_t, t: Estimate(denoise(process, x_t, t)), process, x, grid, signs if hutchinson else None
    )
    at = torch.tensor([grid[-1]])
    alpha, sigma = float(process.alpha(at)), float(process.sigma(at))
    spread = math.sqrt(alpha**2 * STD**2 + sigma**2)
    truth = torch.distributions.Normal(alpha * MEAN, spread).log_prob(x).sum(dim=(1, 2, 3))
    assert torch.allclose(got, truth, atol=0.02)


def test_hutchinsons_estimate_is_right_on_average_where_pixels_depend_on_each_other() -> None:
    """A denoiser with a full Jacobian: single estimates scatter, and their mean is that of the exact trace."""
    process = make_continuous_schedule("cosine", 1.0)
    mixing = 0.3 * torch.randn(4, 4, generator=torch.Generator().manual_seed(3))

    def mixed(x_t: Tensor, t: Tensor) -> Estimate:
        return Estimate(torch.tanh(x_t.flatten(1) @ mixing).view_as(x_t))

    x = torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(4)).expand(3000, 1, 2, 2)
    generator = torch.Generator().manual_seed(5)
    grid = [0.95, 0.7, 0.4, 0.2, 0.05]
    signs = lambda: torch.randint(0, 2, x.shape, generator=generator) * 2.0 - 1  # noqa: E731
    truth = float(log_likelihood(mixed, process, x[:1], grid, None))
    got = log_likelihood(mixed, process, x, grid, signs)
    assert float(got.std()) > 0.05
    assert float(got.mean()) == pytest.approx(truth, abs=4 * float(got.std()) / math.sqrt(3000))


def signs_like(x: Tensor, seed: int) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randint(0, 2, x.shape, generator=generator) * 2.0 - 1


def test_bound_and_ode_and_truth_agree_in_bits() -> None:
    """For images of 256 levels near a normal distribution, whose masses are known."""
    process, x_0 = make_schedule("cosine", 200), levels(300, (1, 4, 4))
    bound = variational_bound(exact(process), process, x_0, list(range(200, -1, -1)), normal(x_0.shape, 6)).total
    *grid, _ = log_snr(process, 60)
    right = exact(process)

    def between(x_t: Tensor, t: Tensor) -> Estimate:
        return Estimate(denoise(process, x_t, t), right(x_t, t.round()).fraction)

    ode = ode_bound(between, process, x_0, grid, normal(x_0.shape, 7), signs_like(x_0, 8))
    truth = discretized_gaussian_nll(x_0, torch.tensor(MEAN), torch.tensor(2 * math.log(STD)))
    bits = truth.flatten(1).mean(dim=1) / math.log(2)
    assert float(bound.mean()) == pytest.approx(float(bits.mean()), abs=0.04)
    assert float((ode - bits).mean()) == pytest.approx(0, abs=0.04)


def test_on_pixels_of_few_levels_the_ode_is_between_the_truth_and_the_bound() -> None:
    """Real digits have 17 of the 256 levels and most of their pixels are black: here each is drawn on its own, with
    the shares of the levels that it has in real digits, so that the truth and the denoiser are known.
    """
    process, values = make_schedule("cosine", 1000), to_model_range(torch.arange(17) * 255 // 16)
    real = torch.from_numpy(load_digits().images).long().view(-1, 64)
    shares = (torch.nn.functional.one_hot(real, 17).float().mean(dim=0) + 1e-4) / (1 + 17e-4)  # [64,17]

    def estimate(x_t: Tensor, t: Tensor) -> Estimate:
        alpha, sigma = process.alpha(t)[:, None, None], process.sigma(t)[:, None, None]
        distance = x_t.view(-1, 64, 1) - alpha * values
        posterior = (shares.log() - distance**2 / (2 * sigma**2)).softmax(dim=2)
        return Estimate((posterior @ values).view_as(x_t))

    which = torch.multinomial(shares, 40, replacement=True, generator=torch.Generator().manual_seed(0)).T
    x_0 = values[which].view(40, 1, 8, 8)
    truth = -shares.log2().expand(40, -1, -1).gather(2, which[:, :, None]).view(40, 64).mean(dim=1)
    grid = list(range(1000, -1, -1))
    bound = variational_bound(estimate, process, x_0, grid, normal(x_0.shape, 1))
    *levels_of_ode, _ = log_snr(process, 100)
    ode = ode_bound(estimate, process, x_0, levels_of_ode, normal(x_0.shape, 2), signs_like(x_0, 3))
    decoder = float(bound.steps[:, -1].mean())
    assert float(truth.mean()) < float(ode.mean()) < float(bound.total.mean())
    # Nothing but the decoder is lost: the levels are so far apart that x_t tells them all.
    assert float((ode - truth).mean()) == pytest.approx(decoder, abs=0.05)


def test_the_flow_of_a_clipped_denoiser_has_a_density() -> None:
    """One pixel: over all x its density adds up to one."""
    process = make_continuous_schedule("cosine", 1.0)
    x = torch.linspace(-1.5, 1.5, 1001).view(-1, 1, 1, 1)
    *grid, _ = log_snr(process, 200)
    wide = lambda x_t, t: Estimate(denoise(process, x_t, t, std=0.8).clamp(-0.6, 0.6))  # noqa: E731
    density = log_likelihood(wide, process, x, grid, None).exp()
    assert float(density.sum() * 3 / 1000) == pytest.approx(1, abs=0.02)


def test_the_prior_term_is_the_kl_between_two_normals() -> None:
    process, x_0 = make_schedule("linear", 10), torch.full((1, 1, 1, 1), 0.5)
    alpha, sigma = float(process.alpha(torch.tensor([10]))), float(process.sigma(torch.tensor([10])))
    expected = 0.5 * (alpha**2 * 0.25 + sigma**2 - 1 - math.log(sigma**2)) / math.log(2)
    assert float(prior_term(process, x_0, 10)) == pytest.approx(expected, abs=1e-6)


def test_a_chain_that_begins_before_the_end_has_the_prior_of_that_time() -> None:
    exploding, x_0 = VarianceExploding(0.002, 80.0), torch.full((1, 1, 1, 1), 0.5)
    expected = 0.5 * 0.5**2 / 40**2 / math.log(2)
    assert float(prior_term(exploding, x_0, 40.0)) == pytest.approx(expected, rel=1e-3)
