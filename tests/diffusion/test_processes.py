"""Every process is alpha and sigma of t; how far the chain is the continuous process seen at the integers."""

import dataclasses
import math

import pytest
import torch

from ddpm.diffusion.gaussian import q_posterior, q_sample, reverse_log_variance, transition
from ddpm.diffusion.processes import LinearPath, Process, VarianceExploding, make_process
from ddpm.diffusion.schedules import make_continuous_schedule, make_schedule
from ddpm.diffusion.settings import Schedule

EXPLODING = VarianceExploding(0.002, 80.0)
ALL: dict[str, tuple[Process, torch.Tensor]] = {
    f"{time} {name}": (make(name, 100), torch.arange(1, 100))
    for time, make in (("discrete", make_schedule), ("continuous", make_continuous_schedule))
    for name in ("linear", "cosine", "sigmoid")
} | {
    "exploding": (EXPLODING, torch.linspace(0.002, 80, 99)),
    "path": (LinearPath(100.0), torch.arange(1, 100)),
    "shifted path": (LinearPath(100.0, shift=0.5), torch.arange(1, 100)),
}


@pytest.mark.parametrize("name", ["cosine", "sigmoid"])
@pytest.mark.parametrize("options", [{}, {"shift": 2.0}])
def test_the_chain_is_the_continuous_process_at_integer_times(name: str, options: dict[str, float]) -> None:
    """Up to the last step, where the chain is clipped (beta at most 0.999)."""
    chain, continuous = make_schedule(name, 1000, **options), make_continuous_schedule(name, 1000, **options)
    t = torch.arange(999)
    assert torch.allclose(chain.alpha(t), continuous.alpha(t), rtol=1e-5)
    assert torch.allclose(chain.sigma(t), continuous.sigma(t), rtol=1e-5)
    assert torch.equal(chain.c_noise(t), continuous.c_noise(t.float()))


def test_the_linear_chain_tends_to_the_vp_sde_as_its_steps_grow_fine() -> None:
    """Song et al. 2021, appendix B: prod(1 - beta_i) -> exp(-integral of beta); the gap falls as 1/T."""
    every = torch.arange(1001)
    chain, continuous = make_schedule("linear", 1000), make_continuous_schedule("linear", 1000)
    assert float((chain.alpha_bar(every) - continuous.alpha_bar(every)).abs().max()) == pytest.approx(8.1e-4, rel=0.01)
    gaps = []
    for T in (1000, 2000, 4000):
        chain, continuous = make_schedule("linear", T), make_continuous_schedule("linear", T)
        t = torch.tensor([T // 2])
        gaps.append(float((chain.snr(t).log() - continuous.snr(t).log()).abs()))
    assert gaps[1] / gaps[0] == pytest.approx(0.5, rel=0.1)
    assert gaps[2] / gaps[1] == pytest.approx(0.5, rel=0.1)


def test_the_vp_sde_is_the_integral_of_its_beta() -> None:
    process = make_continuous_schedule("linear", 1.0)
    u = torch.linspace(0, 0.7, 100_001, dtype=torch.float64)
    integral = torch.trapezoid(0.1 + u * (20 - 0.1), u)
    assert float(process.alpha(torch.tensor([0.7]))) == pytest.approx(math.exp(-float(integral) / 2), rel=1e-6)


@pytest.mark.parametrize("name", sorted(ALL))
def test_snr_is_alpha_squared_over_sigma_squared_and_falls(name: str) -> None:
    process, t = ALL[name]
    assert torch.allclose(process.snr(t), (process.alpha(t) / process.sigma(t)) ** 2, rtol=1e-3)
    assert bool((process.snr(t).diff(dim=0) < 0).all())
    start = torch.zeros(1, dtype=t.dtype)
    assert float(process.alpha(start)) == 1
    assert float(process.sigma(start)) == 0
    assert process.alpha(t.view(33, 3)).shape == (33, 3)
    assert process.alpha(t).dtype == process.sigma(t).dtype == process.c_noise(t).dtype == torch.float32
    end = torch.tensor([process.T])
    total = float(process.alpha(end)) ** 2 * 0.25 + float(process.sigma(end)) ** 2
    assert total**0.5 == pytest.approx(process.prior_std, rel=1e-2), "x_T has the spread that sampling starts from"


@pytest.mark.parametrize("name", sorted(ALL))
def test_two_transitions_make_one_in_every_process(name: str) -> None:
    process, times = ALL[name]
    r, s, t = times[10:11], times[40:41], times[80:81]
    (a1, v1), (a2, v2), (a, v) = transition(process, s, r), transition(process, t, s), transition(process, t, r)
    assert torch.allclose(a, a1 * a2, rtol=1e-5)
    assert torch.allclose(v, a2**2 * v1 + v2, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(ALL))
def test_posterior_and_marginals_agree_in_every_process(name: str) -> None:
    """x_s drawn from q(x_s | x_t, x_0) for x_t of q(x_t | x_0) has the moments of q(x_s | x_0)."""
    process, times = ALL[name]
    s, t = times[30:31], times[70:71]
    x_0, one = torch.full((1, 1, 1, 1), 0.7), torch.ones(1, 1, 1, 1)
    mean_t = q_sample(process, x_0, t, 0 * one)
    mean, variance = q_posterior(process, x_0, mean_t, t, s)
    slope = q_posterior(process, x_0, mean_t + process.sigma(t), t, s)[0] - mean
    assert torch.allclose(mean, process.alpha(s) * x_0, rtol=1e-4)
    assert torch.allclose(slope**2 + variance, process.sigma(s) ** 2, rtol=1e-3)


@pytest.mark.parametrize("name", sorted(ALL))
def test_times_for_training_are_even_on_the_scale_that_the_network_sees(name: str) -> None:
    process, _ = ALL[name]
    torch.manual_seed(0)
    t = process.draw(40_000, "cpu")
    assert float(t.min()) > 0
    assert float(t.max()) <= process.T
    low, high = process.c_noise(torch.tensor([0.0, process.T])).tolist()
    place = (process.c_noise(t) - low) / (high - low)
    assert float(place.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(place.var()) == pytest.approx(1 / 12, rel=0.03)


@pytest.mark.parametrize("make", [make_schedule, make_continuous_schedule])
@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_the_shift_divides_the_snr_by_its_square(make, name: str) -> None:  # type: ignore[no-untyped-def]
    """Hoogeboom et al. 2023, Sec. 3.1: log SNR + 2 log(64/d), here for d = 256."""
    t = torch.tensor([1, 200, 500, 800])
    plain, shifted = make(name, 1000), make(name, 1000, shift=4.0)
    assert torch.allclose(shifted.snr(t).log(), plain.snr(t).log() + 2 * math.log(64 / 256), atol=1e-4)


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_zero_terminal_snr_is_algorithm_1_of_lin_et_al(name: str) -> None:
    T = 1000
    alphas_bar_sqrt = make_schedule(name, T).alphas_bar[1:].sqrt()
    first, last = alphas_bar_sqrt[0].clone(), alphas_bar_sqrt[-1].clone()
    expected = (alphas_bar_sqrt - last) * first / (first - last)
    chain = make_schedule(name, T, zero_terminal=True)
    t = torch.arange(1, T + 1)
    assert torch.allclose(chain.alpha(t), expected.float(), rtol=1e-6, atol=1e-9)
    assert chain.snr(torch.tensor([T])) == 0
    assert chain.sigma(torch.tensor([T])) == 1
    assert torch.allclose(chain.alpha(torch.tensor([T - 1.0, float(T)])), chain.alpha(torch.tensor([T - 1, T])))
    continuous = make_continuous_schedule(name, T, zero_terminal=True)
    assert continuous.snr(torch.tensor([float(T)])) == 0
    assert float(continuous.alpha(torch.zeros(1))) == 1
    t = torch.linspace(0, T, 500)
    assert bool((continuous.alpha(t).diff(dim=0) <= 0).all())
    plain, a_T = make_continuous_schedule(name, T).alpha(t), make_continuous_schedule(name, T).alpha(t[-1:])
    assert torch.allclose(continuous.alpha(t), (plain - a_T) / (1 - a_T), atol=1e-6)


def test_shift_and_zero_terminal_go_together() -> None:
    chain = make_schedule("cosine", 100, shift=2.0, zero_terminal=True)
    assert chain.snr(torch.tensor([100])) == 0
    assert float(chain.alphas_bar[1]) == pytest.approx(float(make_schedule("cosine", 100, shift=2.0).alphas_bar[1]))


def test_reverse_variance_goes_from_beta_tilde_to_beta_in_logarithms() -> None:
    """Nichol and Dhariwal 2021, Eq. 15; at t = 1 beta-tilde_2 stands for beta-tilde_1 = 0, as in their code."""
    schedule = make_schedule("cosine", 100)
    for t in (2, 50, 100):
        beta = float(schedule.betas[t])
        tilde = float((1 - schedule.alphas_bar[t - 1]) / (1 - schedule.alphas_bar[t])) * beta
        for v in (0.0, 0.3, 1.0):
            got = reverse_log_variance(schedule, v, torch.tensor([t]), torch.tensor([t - 1]))
            assert float(got) == pytest.approx(v * math.log(beta) + (1 - v) * math.log(tilde), rel=1e-3)
    first = reverse_log_variance(schedule, 0.0, torch.tensor([1]), torch.tensor([0]))
    tilde_2 = float(1 - schedule.alphas_bar[1]) / float(1 - schedule.alphas_bar[2]) * float(schedule.betas[2])
    assert float(first) == pytest.approx(math.log(tilde_2), rel=1e-3)
    per_pixel = torch.rand(1, 1, 4, 4)
    assert reverse_log_variance(schedule, per_pixel, torch.tensor([3]), torch.tensor([2])).shape == (1, 1, 4, 4)


def test_what_params_yaml_says_is_what_is_made() -> None:
    schedule = Schedule(
        name="variance_exploding", T=100, time="continuous", shift=1.0, zero_terminal_snr=False, sigma_min=0.01,
        sigma_max=50.0,
    )  # fmt: skip
    exploding = make_process(schedule)
    assert exploding == VarianceExploding(0.01, 50.0)
    assert exploding.prior_std == exploding.T == 50.0
    assert make_process(dataclasses.replace(schedule, name="linear_path", shift=3.0)) == LinearPath(100.0, shift=3.0)
    real = make_process(dataclasses.replace(schedule, name="cosine"))
    assert isinstance(real.T, float)
    assert real.draw(3, "cpu").is_floating_point()


def test_the_linear_path_is_a_straight_line_whose_shift_divides_the_snr_by_its_square() -> None:
    """Lipman et al. 2023, Eq. 22, from image to noise; Esser et al. 2024, Eq. 23."""
    t = torch.tensor([0.0, 0.25, 0.5, 1.0])
    path, shifted = LinearPath(1.0), LinearPath(1.0, shift=3.0)
    x_0, eps = torch.full((4,), 2.0), torch.full((4,), -1.0)
    assert q_sample(path, x_0, t, eps).tolist() == [2.0, 1.25, 0.5, -1.0]
    assert torch.allclose(shifted.snr(t[1:3]), path.snr(t[1:3]) / 9)
    assert float(shifted.sigma(t[3])) == 1
    assert LinearPath(1000.0).c_noise(1000 * t).tolist() == path.c_noise(t).tolist() == [0, 250, 500, 1000]


@pytest.mark.parametrize("shift", [0.1, 0.2, 0.3, 0.42, 0.7, 1.1, 3.0, 10.0])
def test_no_image_is_left_at_the_end_of_a_shifted_linear_path(shift: float) -> None:
    """Without a negative share from rounding just before it."""
    path, T = LinearPath(1000.0, shift), 1000.0
    end = torch.tensor([T], dtype=torch.float64)
    assert path.alpha(end).item() == path.snr(end).item() == 0
    assert path.sigma(end).item() == 1
    left = 10.0 ** -torch.arange(1, 11, dtype=torch.float64)  # 1 - t/T
    expected = (left / (shift - (shift - 1) * left)).float()
    assert torch.allclose(path.alpha(T * (1 - left)), expected, rtol=1e-5, atol=0)
    every = torch.linspace(0, T, 1001, dtype=torch.float64)
    assert torch.allclose(path.alpha(every) + path.sigma(every), torch.ones(1001), rtol=0, atol=1e-6)
