"""The table of targets and the weights of the loss, against the definitions of the papers."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ddpm.diffusion import objectives
from ddpm.diffusion.gaussian import q_sample
from ddpm.diffusion.objectives import TARGETS, WEIGHTS, eps_from_x_0, score_from_x_0
from ddpm.diffusion.processes import LinearPath, Process, VarianceExploding
from ddpm.diffusion.sample_shape import per_sample
from ddpm.diffusion.schedules import make_continuous_schedule, make_schedule
from ddpm.diffusion.settings import Objective

PLAIN: dict[str, Any] = dict(
    min_snr_gamma=5.0, p2_gamma=1.0, sigma_data=0.5, learned_variance=False, vlb_weight=0.001, bounded=False
)
PROCESSES: dict[str, tuple[Process, Tensor]] = {
    "linear": (make_schedule("linear", 1000), torch.tensor([1, 100, 500, 900])),
    "cosine": (make_schedule("cosine", 1000), torch.tensor([1, 100, 500, 900])),
    "continuous": (make_continuous_schedule("sigmoid", 1.0), torch.tensor([0.01, 0.2, 0.5, 0.9])),
    "exploding": (VarianceExploding(0.002, 80.0), torch.tensor([0.01, 0.5, 2.0, 60.0])),
    "path": (LinearPath(1.0), torch.tensor([0.01, 0.2, 0.5, 0.9])),
}

# What the network shall answer, by definition, of (x_0, eps, alpha, sigma) in these processes.
DEFINITIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "eps": lambda x_0, eps, alpha, sigma: eps,
    "x_0": lambda x_0, eps, alpha, sigma: x_0,
    "v": lambda x_0, eps, alpha, sigma: alpha * eps - sigma * x_0,
}


def objective(target: str, weight: str, **changes: Any) -> Objective:
    return Objective(target=target, weight=weight, **PLAIN | changes)


def draws(shape: tuple[int, ...] = (4, 3, 8, 8)) -> tuple[Tensor, Tensor]:
    x_0, eps = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).unbind()
    return x_0, eps


def levels(process: Process, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma at t [N], which broadcast against samples x."""
    return process.alpha(per_sample(t, x)), process.sigma(per_sample(t, x))


@pytest.mark.parametrize("process_name", ["linear", "cosine", "continuous"])
@pytest.mark.parametrize("target", sorted(DEFINITIONS))
def test_the_exact_prediction_is_the_image_and_has_no_loss(target: str, process_name: str) -> None:
    process, t = PROCESSES[process_name]
    x_0, eps = draws()
    x_t = q_sample(process, x_0, t, eps)
    alpha, sigma = levels(process, t, x_0)
    exact = DEFINITIONS[target](x_0, eps, alpha, sigma)
    for weight in WEIGHTS:
        o = objective(target, weight)
        back = objectives.estimate(o, lambda x, c_noise: exact, process, x_t, t).x_0
        # Rounding of float32 is amplified by 1/alpha in x_0 and by 1/sigma in eps.
        assert ((back - x_0).abs() * alpha).max() < 5e-6
        assert ((eps_from_x_0(back, x_t, alpha, sigma) - eps).abs() * sigma).max() < 2e-5
        loss = objectives.loss(o, lambda x, c_noise: exact, process, x_0=x_0, t=t, eps=eps)
        assert loss.shape == (4,)
        assert loss.max() < 1e-7


@pytest.mark.parametrize("process_name", ["linear", "cosine", "continuous"])
@pytest.mark.parametrize("target", sorted(DEFINITIONS))
def test_the_simple_loss_is_the_squared_error_of_the_target_itself(target: str, process_name: str) -> None:
    """For eps: Ho et al. 2020, Eq. 14."""
    process, t = PROCESSES[process_name]
    x_0, eps = draws()
    guess = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
    exact = DEFINITIONS[target](x_0, eps, *levels(process, t, x_0))
    loss = objectives.loss(objective(target, "simple"), lambda x, c_noise: guess, process, x_0=x_0, t=t, eps=eps)
    assert torch.allclose(loss, ((exact - guess) ** 2).mean(dim=(1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("process_name", sorted(PROCESSES))
def test_a_weight_says_the_same_of_an_image_whatever_the_network_predicts(target: str, process_name: str) -> None:
    process, t = PROCESSES[process_name]
    x_0, eps = draws()
    x_0_hat = x_0 + 0.1 * torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
    x_t, snr = q_sample(process, x_0, t, eps), process.snr(per_sample(t, x_0))
    expected = {
        "snr": snr,  # Ho et al.'s squared error of eps
        "min_snr": snr.clamp(max=5.0),  # Hang et al. 2023, Eq. 8
        "p2": snr / (1 + snr),  # Choi et al. 2022, Eq. 8 with k = gamma = 1
        "edm": snr + 1 / 0.5**2,  # Karras et al. 2022, Tab. 1
        "flow": (1 + snr.sqrt()) ** 2,
    }
    for weight, lambda_t in expected.items():
        o = objective(target, weight)
        c_skip, c_out, _ = objectives.preconditioning(o, process, per_sample(t, x_t))
        answer = (x_0_hat - c_skip * x_t) / c_out
        loss = objectives.loss(o, lambda x, c_noise, answer=answer: answer, process, x_0=x_0, t=t, eps=eps)  # type: ignore[misc]
        assert torch.allclose(loss, (lambda_t * (x_0 - x_0_hat) ** 2).mean(dim=(1, 2, 3)), rtol=5e-3)


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("process_name", sorted(PROCESSES))
def test_the_weight_flow_makes_the_loss_of_flow_matching_on_the_linear_path(target: str, process_name: str) -> None:
    """Lipman et al. 2023, Eq. 23: |u_hat - (eps - x_0)|^2 at the point of the path with the same share of noise."""
    process, t = PROCESSES[process_name]
    x_0, eps = draws()
    guess = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
    o = objective(target, "flow")
    loss = objectives.loss(o, lambda x, c_noise: guess, process, x_0=x_0, t=t, eps=eps)
    alpha, sigma = levels(process, t, x_0)
    s = sigma / (alpha + sigma)
    on_path = (1 - s) * x_0 + s * eps
    x_0_hat = objectives.estimate(o, lambda x, c_noise: guess, process, q_sample(process, x_0, t, eps), t).x_0
    velocity = (on_path - x_0_hat) / s
    assert torch.allclose(loss, ((velocity - (eps - x_0)) ** 2).mean(dim=(1, 2, 3)), rtol=5e-3)


def test_edm_is_the_table_of_karras_et_al() -> None:
    sigma, sigma_data = torch.tensor([0.01, 0.5, 1.0, 80.0]), 0.5
    process = VarianceExploding(0.002, 80.0)
    o = objective("edm", "edm", sigma_data=sigma_data)
    c_skip, c_out, c_in = objectives.preconditioning(o, process, sigma)
    assert torch.allclose(c_skip, sigma_data**2 / (sigma**2 + sigma_data**2))
    assert torch.allclose(c_out, sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt())
    assert torch.allclose(c_in, 1 / (sigma**2 + sigma_data**2).sqrt())
    assert torch.allclose(process.c_noise(sigma), 1000 * sigma.log() / 4)
    lambda_sigma = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    assert torch.allclose(objectives.loss_weights(o, process, sigma), lambda_sigma, rtol=1e-5)
    simple = objectives.loss_weights(objective("edm", "simple", sigma_data=sigma_data), process, sigma)
    assert torch.allclose(simple, lambda_sigma, rtol=1e-5), "theirs is weight 1 on the error of F"


@pytest.mark.parametrize("process_name", sorted(PROCESSES))
def test_edm_keeps_inputs_and_targets_at_unit_variance(process_name: str) -> None:
    """Karras et al. 2022, Eq. 114 and 117 of the appendix, in every process."""
    process, t = PROCESSES[process_name]
    c_skip, c_out, c_in = objectives.preconditioning(objective("edm", "edm"), process, t)
    alpha, sigma, var = process.alpha(t), process.sigma(t), 0.5**2
    assert torch.allclose(c_in**2 * (alpha**2 * var + sigma**2), torch.ones_like(alpha), rtol=1e-4)
    target_variance = ((1 - c_skip * alpha) ** 2 * var + c_skip**2 * sigma**2) / c_out**2
    assert torch.allclose(target_variance, torch.ones_like(alpha), rtol=2e-3)


def test_edm_for_images_of_unit_variance_is_v_with_its_sign_turned() -> None:
    process, t = PROCESSES["cosine"]
    edm = objectives.preconditioning(objective("edm", "simple", sigma_data=1.0), process, t)
    v = objectives.preconditioning(objective("v", "simple"), process, t)
    assert torch.allclose(edm.c_skip, v.c_skip)
    assert torch.allclose(edm.c_out, -v.c_out)
    assert torch.allclose(edm.c_in, v.c_in)


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_target_in_the_exploding_process_is_that_of_the_same_image_seen_variance_preserving(target: str) -> None:
    """x_t / sqrt(1 + sigma^2) of the one is x_t of the other at the same SNR: one network serves both."""
    exploding, preserving = VarianceExploding(0.002, 80.0), make_continuous_schedule("cosine", 1.0)
    t = torch.tensor([0.1, 0.4, 0.6, 0.9])
    sigma = preserving.sigma(t) / preserving.alpha(t)
    x_0, eps = draws()
    answer = torch.randn_like(x_0)
    one = objectives.estimate(
        objective(target, "simple"), lambda x, c: answer, preserving, q_sample(preserving, x_0, t, eps), t
    )
    x_sigma = q_sample(exploding, x_0, sigma, eps)
    two = objectives.estimate(objective(target, "simple"), lambda x, c: answer, exploding, x_sigma, sigma)
    assert torch.allclose(one.x_0, two.x_0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("process_name", sorted(PROCESSES))
def test_the_denoising_loss_and_the_score_loss_are_one_objective_under_another_weight(process_name: str) -> None:
    """Vincent 2011: |s - grad log q(x_t | x_0)|^2 is alpha^2/sigma^4 |x_0_hat - x_0|^2; eps: alpha^2/sigma^2 times.

    So denoising score matching with lambda = sigma^2 (Song and Ermon 2019, Eq. 6) is Ho et al.'s L_simple.
    """
    process, t = PROCESSES[process_name]
    x_0, eps = draws()
    alpha, sigma = levels(process, t, x_0)
    x_t = q_sample(process, x_0, t, eps)
    x_0_hat = x_0 + torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))

    def of(error: Tensor) -> Tensor:
        return (error**2).mean(dim=(1, 2, 3))

    conditional_score = -(x_t - alpha * x_0) / sigma**2  # gradient of log N(x_t; alpha x_0, sigma^2 I)
    score_loss = of(score_from_x_0(x_0_hat, x_t, alpha, sigma) - conditional_score)
    x_0_loss = of(x_0_hat - x_0)
    eps_loss = of(eps_from_x_0(x_0_hat, x_t, alpha, sigma) - eps)
    a, s = alpha.flatten(), sigma.flatten()
    assert torch.allclose(score_loss, a**2 / s**4 * x_0_loss, rtol=1e-3)
    assert torch.allclose(eps_loss, a**2 / s**2 * x_0_loss, rtol=1e-3)
    assert torch.allclose(s**2 * score_loss, eps_loss, rtol=1e-3)
    ours = objectives.loss(objective("x_0", "snr"), lambda x, c_noise: x_0_hat, process, x_0=x_0, t=t, eps=eps)
    assert torch.allclose(ours, s**2 * score_loss, rtol=1e-3)


def test_denoising_score_matching_finds_the_score_of_the_noisy_data() -> None:
    """Of all functions a x + b the one with the least denoising loss is grad log q(x_t), known for normal data."""
    process, mean, std, n = make_schedule("cosine", 1000), 0.3, 0.5, 200_000
    t = torch.tensor([400])
    generator = torch.Generator().manual_seed(0)
    x_0 = mean + std * torch.randn(n, 1, 1, 1, generator=generator)
    eps = torch.randn(n, 1, 1, 1, generator=generator)
    alpha, sigma = process.alpha(t), process.sigma(t)
    x_t = (alpha * x_0 + sigma * eps).flatten().double()
    inputs = torch.stack([x_t, torch.ones_like(x_t)], dim=1)
    target = -(eps / sigma).flatten().double()  # the conditional score of Vincent 2011
    fit = torch.linalg.lstsq(inputs, target[:, None]).solution.flatten()
    a, s = float(alpha), float(sigma)
    variance = a**2 * std**2 + s**2
    error = 5 / (s * math.sqrt(n))
    assert float(fit[0]) == pytest.approx(-1 / variance, abs=error / math.sqrt(variance))
    assert float(fit[1]) == pytest.approx(a * mean / variance, abs=2 * error)


def test_the_loss_is_computed_in_float32_when_the_network_answers_in_bf16() -> None:
    schedule = make_schedule("cosine", 10)
    x_0, eps = draws((2, 1, 4, 4))
    o = objective("v", "min_snr")
    loss = objectives.loss(o, lambda x, c_noise: x.bfloat16(), schedule, x_0=x_0, t=torch.tensor([1, 9]), eps=eps)
    assert loss.dtype == torch.float32


def test_the_hybrid_loss_teaches_the_variance_by_the_bound_and_the_mean_by_the_simple_loss_alone() -> None:
    """Nichol and Dhariwal 2021, Sec. 3.1: the gradient of L_vlb is stopped at the mean."""
    schedule = make_schedule("cosine", 100)
    x_0, eps = draws((3, 1, 4, 4))
    t = torch.tensor([1, 40, 100])
    answer = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(2), requires_grad=True)
    hybrid = objective("eps", "simple", learned_variance=True)
    loss = objectives.loss(hybrid, lambda x, c_noise: answer, schedule, x_0=x_0, t=t, eps=eps)
    (gradient,) = torch.autograd.grad(loss.sum(), answer)
    plain = objectives.loss(
        objective("eps", "simple"), lambda x, c_noise: answer[:, :1], schedule, x_0=x_0, t=t, eps=eps
    )
    (of_mean,) = torch.autograd.grad(plain.sum(), answer)
    assert torch.equal(gradient[:, :1], of_mean[:, :1])
    assert bool((gradient[:, 1:].abs().amax(dim=(1, 2, 3)) > 0).all())
    twice = objective("eps", "simple", learned_variance=True, vlb_weight=0.002)
    more = objectives.loss(twice, lambda x, c_noise: answer, schedule, x_0=x_0, t=t, eps=eps)
    assert torch.allclose((more - plain) / (loss - plain), torch.full((3,), 2.0), rtol=1e-3)


def answering(x_0_hat: Tensor, o: Objective, process: Process, x_t: Tensor, t: Tensor) -> Callable[..., Tensor]:
    """A network that sees this image in x_t."""
    c_skip, c_out, _ = objectives.preconditioning(o, process, per_sample(t, x_t))
    return lambda x, c_noise: (x_0_hat - c_skip * x_t) / c_out


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_the_best_bounded_estimate_is_the_mean_of_all_images_that_could_have_become_this_one(share: float) -> None:
    """A pixel that is black in `share` of the cases and otherwise white or grey."""
    process, t = PROCESSES["cosine"]
    t = t[:1]
    pixels = torch.tensor([-1.0, 1.0, 0.2])
    chances = torch.tensor([share, 0.6 * (1 - share), 0.4 * (1 - share)])
    x_t = torch.zeros(1, 1, 1, 1)
    guesses = torch.linspace(-1.5, 1.5, 3001)
    o = objective("v", "min_snr", bounded=True)
    expected_loss = torch.zeros(len(guesses))
    for pixel, chance in zip(pixels, chances, strict=True):
        eps = (x_t - process.alpha(t) * pixel) / process.sigma(t)  # whichever the image, it became this x_t
        network = answering(guesses.view(-1, 1, 1, 1), o, process, x_t, t)
        images, noise = pixel.expand(len(guesses), 1, 1, 1), eps.expand(len(guesses), 1, 1, 1)
        expected_loss += chance * objectives.loss(o, network, process, x_0=images, t=t.expand(len(guesses)), eps=noise)
    best = guesses[expected_loss <= expected_loss.min() + 1e-9].clamp(-1, 1)
    assert torch.allclose(best, (chances * pixels).sum().expand_as(best), atol=2e-3)
    if share == 1:
        assert (expected_loss[guesses <= -1] < 1e-9).all()
        assert (expected_loss[guesses > -0.99] > 0).all()


def test_a_bounded_estimate_lies_in_the_range_of_images_and_inside_it_is_the_free_one() -> None:
    process, t = PROCESSES["linear"]
    x_t, _ = draws()
    x_0_hat = torch.linspace(-2, 2, x_t.numel()).view_as(x_t)
    free, bounded = objective("eps", "simple"), objective("eps", "simple", bounded=True)
    network = answering(x_0_hat, free, process, x_t, t)
    held = objectives.estimate(bounded, network, process, x_t, t).x_0
    assert torch.equal(held, objectives.estimate(free, network, process, x_t, t).x_0.clamp(-1, 1))
    assert float(held.min()) == -1
    assert float(held.max()) == 1


def test_a_bounded_loss_is_the_loss_where_no_pixel_is_black_or_white() -> None:
    process, t = PROCESSES["cosine"]
    x_0, eps = draws()
    x_0 = x_0.clamp(-0.9, 0.9)
    network = answering(2 * eps, objective("v", "snr"), process, q_sample(process, x_0, t, eps), t)
    losses = [
        objectives.loss(objective("v", "snr", bounded=bounded), network, process, x_0=x_0, t=t, eps=eps)
        for bounded in (False, True)
    ]
    assert torch.equal(*losses)


def test_the_bound_that_teaches_the_variance_sees_the_estimate_that_sampling_sees() -> None:
    schedule = make_schedule("cosine", 100)
    x_0, eps = draws((3, 1, 4, 4))
    x_0 = x_0.clamp(-1, 1)
    t = torch.tensor([2, 40, 100])
    o = objective("v", "simple", learned_variance=True, bounded=True)
    simple = objective("v", "simple", bounded=True)
    x_t = q_sample(schedule, x_0, t, eps)

    def bound(scale: float) -> Tensor:
        """The weighted bound, which is all that the hybrid loss has beside the simple one."""
        answer = answering(scale * x_0.sign(), o, schedule, x_t, t)
        with_variance = objectives.loss(
            o, lambda *asked: torch.cat([answer(*asked), torch.zeros_like(x_t)], dim=1), schedule, x_0=x_0, t=t, eps=eps
        )
        return with_variance - objectives.loss(simple, answer, schedule, x_0=x_0, t=t, eps=eps)

    at_the_ends, beyond = bound(1.0), bound(3.0)
    assert torch.allclose(at_the_ends, beyond, rtol=1e-3, atol=1e-6)


def test_on_the_linear_path_target_velocity_and_weight_simple_are_flow_matching() -> None:
    """Lipman et al. 2023, Eq. 23: the squared error of the velocity eps - x_0, the derivative of x_t."""
    process, t = PROCESSES["path"]
    x_0, eps = draws()
    x_t = q_sample(process, x_0, t, eps)
    answer = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
    o = objective("velocity", "simple")
    flow_matching = ((answer - (eps - x_0)) ** 2).mean(dim=(1, 2, 3))
    for weight in ("simple", "flow"):
        here = objective("velocity", weight)
        loss = objectives.loss(here, lambda x, c: answer, process, x_0=x_0, t=t, eps=eps)
        assert torch.allclose(loss, flow_matching, rtol=1e-4)
    exact = objectives.estimate(o, lambda x, c: eps - x_0, process, x_t, t)
    assert torch.allclose(exact.x_0, x_0, atol=1e-5)
