"""Restoration with exact denoisers reaches posteriors that are known in closed form."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, lsq_linear, minimize
from torch import Tensor

from ddpm.degrading import operators
from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.sample_shape import per_sample
from ddpm.diffusion.schedules import Schedule, make_schedule
from ddpm.images import to_model_range, to_uint8
from ddpm.sampling import restoration, samplers
from ddpm.sampling.grids import uniform_grid
from ddpm.sampling.samplers import Denoise

PROCESS = make_schedule("cosine", 1000)


def normal(shape: tuple[int, ...], seed: int = 0) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator)


def gaussian(mean: Tensor, covariance: Tensor, shape: tuple[int, int, int], process: Schedule = PROCESS) -> Denoise:
    """E[x_0 | x_t] for x_0 ~ N(mean [D], covariance [D,D]), D = C*H*W: linear regression of x_0 on x_t."""

    def denoise(x_t: Tensor, t: Tensor) -> Estimate:
        alpha, sigma = process.alpha(t)[0].item(), process.sigma(t)[0].item()
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(len(mean)))
        return Estimate((mean + (x_t.flatten(1) - alpha * mean) @ gain.T).view(-1, *shape))

    return denoise


def finite_set(data: Tensor, process: Schedule = PROCESS) -> Denoise:
    """E[x_0 | x_t] for x_0 uniform on a finite set [M,C,H,W]."""

    def denoise(x_t: Tensor, t: Tensor) -> Estimate:
        alpha, sigma = process.alpha(t), process.sigma(t)
        squared = ((x_t[:, None] - per_sample(alpha, data[None]) * data[None]) ** 2).flatten(2).sum(-1)
        weights = torch.softmax(-squared / (2 * sigma[:, None] ** 2), dim=1)
        return Estimate(torch.einsum("nm,mchw->nchw", weights, data))

    return denoise


def last(steps: object) -> Tensor:
    *_, step = steps  # type: ignore[misc]
    assert step.t == 0
    return step.x_t


def grid(steps: int) -> list[float]:
    return uniform_grid(PROCESS.T, steps)


def smooth_covariance(pixels: int) -> Tensor:
    at = torch.arange(pixels, dtype=torch.float32)
    return 0.25 * torch.exp(-((at[:, None] - at[None, :]) ** 2) / 8) + 1e-3 * torch.eye(pixels)


# The path of RePaint


def test_one_resampling_is_the_grid_itself() -> None:
    assert restoration.resampling_path(grid(10), jump=3, resamplings=1) == grid(10)


def test_with_a_jump_of_one_every_step_but_the_last_is_taken_so_many_times() -> None:
    path = restoration.resampling_path([3.0, 2.0, 1.0, 0.0], jump=1, resamplings=2)
    assert path == [3, 2, 3, 2, 1, 2, 1, 0]  # Lugmayr et al. 2022, Algorithm 1 with T = 3 and U = 2


@pytest.mark.parametrize(("steps", "jump", "resamplings"), [(250, 10, 10), (7, 3, 4), (5, 9, 3)])
def test_the_path_steps_down_one_by_one_and_up_by_whole_jumps(steps: int, jump: int, resamplings: int) -> None:
    times = [float(k) for k in range(steps, -1, -1)]
    path = restoration.resampling_path(times, jump=jump, resamplings=resamplings)
    moves = [s - t for t, s in pairwise(path)]
    assert set(moves) <= {-1, jump}
    assert path[0] == steps
    assert path[-1] == 0
    assert path.count(0) == 1
    turns = len(range(1, steps - jump + 1, jump))
    assert moves.count(jump) == turns * (resamplings - 1)


def test_the_path_is_that_of_the_published_code() -> None:
    """get_schedule_jump of the authors' repository, whose index v is our t = v + 1."""
    T, jump, resamplings = 50, 7, 3
    jumps = dict.fromkeys(range(0, T - jump, jump), resamplings - 1)
    t, theirs = T, []
    while t >= 1:
        t -= 1
        theirs.append(t)
        if jumps.get(t, 0) > 0:
            jumps[t] -= 1
            for _ in range(jump):
                t += 1
                theirs.append(t)
    theirs.append(-1)
    path = restoration.resampling_path([float(k) for k in range(T, -1, -1)], jump=jump, resamplings=resamplings)
    stepwise = [int(path[0])]
    for before, after in pairwise(map(int, path)):  # our step up is one draw; theirs goes one by one
        stepwise += range(before + 1, after + 1) if after > before else [after]
    assert [k - 1 for k in stepwise] == theirs


# RePaint


def test_known_pixels_come_back_to_the_bit() -> None:
    every_level = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    known = to_model_range(every_level).expand(3, -1, -1, -1)
    mask = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    noise = normal((3, 1, 16, 16))
    path = restoration.resampling_path(grid(5), jump=1, resamplings=2)
    x = last(restoration.repaint(lambda x, t: Estimate(x), PROCESS, noise(), path, noise, known=known, mask=mask))
    assert torch.equal(x[mask], known[mask])
    assert torch.equal(to_uint8(x)[mask], every_level.expand(3, -1, -1, -1)[mask])
    assert not torch.equal(to_uint8(x), every_level.expand(3, -1, -1, -1))


def test_resampling_brings_inpainting_to_the_closed_form_posterior() -> None:
    """Two pixels with correlation 0.9: the unknown one is N(0.9 k, s^2 (1 - 0.9^2)), given the known k."""
    scale, correlation, k, n = 0.5, 0.9, 0.6, 2000
    covariance = scale**2 * torch.tensor([[1.0, correlation], [correlation, 1.0]])
    denoise = gaussian(torch.zeros(2), covariance, (1, 1, 2))
    known = torch.tensor([k, 0.0]).view(1, 1, 1, 2).expand(n, -1, -1, -1)
    mask = torch.tensor([True, False]).view(1, 1, 1, 2)

    def painted(resamplings: int) -> tuple[float, float]:
        noise = normal((n, 1, 1, 2))
        path = restoration.resampling_path(grid(200), jump=10, resamplings=resamplings)
        x = last(restoration.repaint(denoise, PROCESS, noise(), path, noise, known=known, mask=mask))
        return x[:, 0, 0, 1].mean().item(), x[:, 0, 0, 1].std().item()

    mean, std = correlation * k, scale * math.sqrt(1 - correlation**2)
    once, often = painted(1), painted(10)
    assert abs(often[0] - mean) < 0.05 * mean
    assert abs(often[1] - std) < 0.1 * std
    assert abs(once[0] - mean) > 5 * abs(often[0] - mean)  # the reason for resampling


def test_repaint_finds_the_member_of_a_finite_set_to_which_the_known_part_belongs() -> None:
    data = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2] = True
    noise = normal((6, 1, 4, 4))
    path = restoration.resampling_path(grid(60), jump=5, resamplings=5)
    x = last(restoration.repaint(finite_set(data), PROCESS, noise(), path, noise, known=data, mask=mask))
    assert (x - data).abs().max() < 0.05


# DDNM

OPERATORS = {
    "pooling": (operators.average_pooling(2), (2, 3, 8, 8)),
    "grey": (operators.grey(), (2, 3, 8, 8)),
    "blur": (operators.gaussian_blur(8, width=0.8, smallest=0.02), (2, 3, 8, 8)),
    "strong blur": (operators.gaussian_blur(16, width=3.0, smallest=0.02), (2, 1, 16, 16)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_and_its_pseudo_inverse_fulfil_the_conditions_of_penrose(name: str) -> None:
    operator, shape = OPERATORS[name]
    a, b = normal(shape, 1)(), normal(shape, 2)()
    y = operator.measure(a)
    assert torch.allclose(operator.measure(operator.undo(y)), y, atol=1e-4)  # A A+ A = A
    back = operator.undo(y)
    assert torch.allclose(operator.undo(operator.measure(back)), back, atol=1e-4)  # A+ A A+ = A+
    onto = lambda x: operator.undo(operator.measure(x))  # noqa: E731
    assert torch.allclose((onto(a) * b).sum(), (a * onto(b)).sum(), atol=1e-3)  # A+ A symmetric


def test_the_blur_is_the_gaussian_blur_of_the_mirrored_image() -> None:
    x, width = normal((1, 1, 12, 12))(), 1.0
    operator = operators.gaussian_blur(12, width=width, smallest=0.0)
    reach = torch.arange(-6, 7)
    kernel = torch.exp(-0.5 * (reach / width) ** 2)
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    mirrored = torch.cat([x.flip(3), x, x.flip(3)], dim=3)
    mirrored = torch.cat([mirrored.flip(2), mirrored, mirrored.flip(2)], dim=2)
    expected = torch.nn.functional.conv2d(mirrored, kernel[None, None], padding=6)[:, :, 12:24, 12:24]
    assert torch.allclose(operator.measure(x), expected, atol=1e-5)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_every_sampler_of_a_consistent_denoiser_ends_at_the_measurement(name: str, eta: float) -> None:
    operator, shape = OPERATORS[name]
    y = operator.measure(normal(shape, 5)())
    pixels = math.prod(shape[1:])
    prior = gaussian(torch.zeros(pixels), torch.eye(pixels), shape[1:])
    denoise = restoration.consistent(prior, operator, y)
    noise = normal(shape)
    x = last(samplers.ddim(denoise, PROCESS, noise(), grid(20), noise, eta=eta))
    assert torch.allclose(operator.measure(x), y, atol=1e-4)


def test_super_resolution_of_white_gaussian_images_reaches_the_closed_form_posterior() -> None:
    """Given the mean y of two pixels N(m, s^2), each is N(y, s^2 / 2) and their difference N(0, 2 s^2)."""
    n, m, s = 20_000, 0.2, 0.4
    denoise = gaussian(torch.full((4,), m), s**2 * torch.eye(4), (1, 2, 2))
    y = torch.full((n, 1, 1, 1), 0.5)
    noise = normal((n, 1, 2, 2))
    posed = restoration.consistent(denoise, operators.average_pooling(2), y)
    x = last(samplers.ddpm(posed, PROCESS, noise(), grid(250), noise, variance="small"))
    assert torch.allclose(x.mean(dim=(1, 2, 3)), y.flatten(), atol=1e-5)
    assert (x.mean(dim=0) - 0.5).abs().max() < 0.01
    # Four pixels with a fixed mean: the variance of each is s^2 (1 - 1/4).
    assert (x.std(dim=0) - s * math.sqrt(3 / 4)).abs().max() < 0.02 * s


@pytest.mark.parametrize("name", ["pooling", "blur", "grey"])
def test_the_measured_member_of_a_finite_set_is_found(name: str) -> None:
    operator, shape = OPERATORS[name]
    # As in photographs, most of what tells them apart is measured, and each has detail that is not.
    data = operator.undo(
        torch.randn(operator.measure(torch.zeros(5, *shape[1:])).shape, generator=torch.Generator().manual_seed(2))
    )
    data = data / data.std() + 0.1 * normal(data.shape, 3)()
    noise = normal(data.shape)
    denoise = restoration.consistent(finite_set(data), operator, operator.measure(data))
    x = last(samplers.ddim(denoise, PROCESS, noise(), grid(100), noise, eta=0.85))
    assert (x - data).abs().max() < 0.05


# What 256 levels between black and white leave of a measurement

MEANS = ["pooling", "grey"]


def whole_levels(shape: tuple[int, ...], seed: int) -> Tensor:
    """Images of which a third of the pixels are black and a third white, where clipping does most."""
    x = 3 * normal(shape, seed)()
    return to_model_range(to_uint8(x))


def off_range(operator: operators.Operator, shape: tuple[int, ...], y: Tensor) -> Tensor:
    """Images in the range, corrected to have the measurement y, as `consistent` does; some pixels leave the range."""
    x = normal(shape, 9)().clamp(-1, 1)
    return x + operator.undo(y - operator.measure(x))


@pytest.mark.parametrize("name", MEANS)
def test_settled_means_are_the_measured_ones_to_the_bit(name: str) -> None:
    operator, shape = OPERATORS[name]
    y = to_uint8(operator.measure(whole_levels(shape, 5)))
    x = off_range(operator, shape, to_model_range(y))
    clipped = operator.measure(to_uint8(x).double())
    assert (clipped - y).abs().max() > 5  # what clipping alone does
    settled = to_uint8(operator.settle(x, to_model_range(y)))
    assert torch.equal(operator.measure(settled.double()).round(decimals=6), y.double())


@pytest.mark.parametrize("extreme", [0, 255])
def test_black_and_white_stay_what_they_are(extreme: int) -> None:
    operator, shape = OPERATORS["pooling"]
    y = torch.full((2, 3, 4, 4), extreme, dtype=torch.uint8)
    settled = to_uint8(operator.settle(off_range(operator, shape, to_model_range(y)), to_model_range(y)))
    assert (settled == extreme).all()


def test_the_settled_image_is_the_nearest_of_its_mean_up_to_its_rounding() -> None:
    """Against a general solver: least |z - x|^2 with z in [-1, 1] and mean y, for one block of four pixels."""
    operator = operators.average_pooling(2)
    x = normal((20, 1, 2, 2), 3)() * 1.5
    y = to_model_range(to_uint8(0.5 * normal((20, 1, 1, 1), 4)()))
    settled = operator.settle(x, y).flatten(1)
    for one, target, got in zip(x.flatten(1).double().numpy(), y.flatten().tolist(), settled.numpy(), strict=True):

        def squared(z: np.ndarray, one: np.ndarray = one) -> float:
            return float(((z - one) ** 2).sum())

        mean = LinearConstraint(np.full(4, 0.25), target, target)
        best = minimize(squared, np.full(4, target), bounds=[(-1, 1)] * 4, constraints=mean)
        assert np.abs(best.x - got).max() * 127.5 < 1 + 1e-2


@pytest.mark.parametrize(("size", "width"), [(8, 0.8), (8, 2.0), (16, 3.0)])
def test_a_settled_blur_misses_the_picture_by_no_more_than_the_image_it_was_made_of(size: int, width: float) -> None:
    operator = operators.gaussian_blur(size, width=width, smallest=0.02)
    exact = operators.gaussian_blur(size, width=width, smallest=0.0)
    truth = whole_levels((4, 1, size, size), 5)
    y = to_model_range(to_uint8(exact.measure(truth)))
    x = off_range(operator, truth.shape, y)

    def missed(image: Tensor) -> Tensor:
        """Root mean square per image, in grey levels, of the part that the blur keeps."""
        return 127.5 * (operator.measure(image) - operator.measure(operator.undo(y))).flatten(1).square().mean(1).sqrt()

    settled = operator.settle(x, y)
    assert torch.allclose(settled, to_model_range(to_uint8(settled)), atol=1e-6)  # on the 256 levels
    assert (missed(x.clamp(-1, 1)) > missed(truth) + 1).all()  # what clipping alone does
    assert (missed(settled) < missed(truth) + 0.5).all()


def test_a_picture_that_no_image_can_blur_to_is_met_as_nearly_as_least_squares_can() -> None:
    operator = operators.gaussian_blur(8, width=1.0, smallest=0.02)
    y = whole_levels((3, 1, 8, 8), 6)  # far too sharp for a blurred picture
    settled = operator.settle(off_range(operator, y.shape, y), y)
    seen = operator.measure(torch.eye(64).view(64, 1, 8, 8)).view(64, 64).T.double().numpy()
    for k in range(3):
        best = lsq_linear(seen, y[k].flatten().double().numpy(), bounds=(-1, 1)).cost
        got = 0.5 * (operator.measure(settled[k : k + 1]) - y[k]).square().sum().item()
        assert best - 1e-3 < got < 1.01 * best


# Denoising


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("std", [0.05, 0.5, 2.0])
def test_the_process_is_entered_where_it_is_as_noisy_as_the_image(name: str, std: float) -> None:
    process = make_schedule(name, 1000)
    y = normal((3, 1, 2, 2))()
    x_t, times = restoration.start_of_noisy(process, y, uniform_grid(1000, 50), std=std)
    t = torch.tensor([times[0]])
    assert math.isclose((process.sigma(t) / process.alpha(t)).item(), std, rel_tol=1e-3)
    assert torch.allclose(x_t / process.alpha(t), y, atol=1e-5)
    assert times[1:] == [s for s in uniform_grid(1000, 50) if s < times[0]]


def test_denoising_draws_from_the_closed_form_posterior() -> None:
    """x_0 ~ N(m, s^2) seen through noise of std r: N(m + g (y - m), g r^2) with g = s^2 / (s^2 + r^2)."""
    n, m, s, r, seen = 20_000, 0.1, 0.5, 0.4, 0.9
    denoise = gaussian(torch.tensor([m]), torch.tensor([[s**2]]), (1, 1, 1))
    noise = normal((n, 1, 1, 1))
    x_t, times = restoration.start_of_noisy(PROCESS, torch.full((n, 1, 1, 1), seen), grid(500), std=r)
    x = last(samplers.ddpm(denoise, PROCESS, x_t, times, noise, variance="small"))
    gain = s**2 / (s**2 + r**2)
    assert abs(x.mean() - (m + gain * (seen - m))) < 4 * r / math.sqrt(n) + 0.005
    assert abs(x.std() - math.sqrt(gain) * r) < 0.02 * r
