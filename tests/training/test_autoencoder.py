"""The autoencoder of latent diffusion: its losses, exact resume, training in parts, and the weights in its model."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import tiny_autoencoder as tiny
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.networks.autoencoder_kl import AutoencoderKL
from ddpm.networks.patch_discriminator import JudgedAutoencoder, PatchDiscriminator
from ddpm.training import session
from ddpm.training.autoencoder import codec_of, train_of
from ddpm.training.methods.method import Drawn, Images
from ddpm.training.session import _network_in_training
from ddpm.training.settings import Autoencoder

CASES = {"plain": tiny.SETTINGS, "judged": tiny.WITH_A_JUDGE}


def weights(training: session.Training) -> dict[str, Tensor]:
    networks = {"network": training.state.network, "ema": training.state.ema.network}
    return {f"{kind}.{key}": value for kind, each in networks.items() for key, value in each.state_dict().items()}


def values_of(settings: Autoencoder) -> tuple[Tensor, Any, Tensor, Tensor]:
    """Return loss and terms of five images with random weights, with the network, the images and the noise."""
    training = tiny.begin(settings=settings)
    network, method = training.state.network, training._method()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x, eps = torch.rand(5, 1, 8, 8) * 2 - 1, torch.randn(7, 2, 4, 4)
    drawn = Drawn(eps, torch.ones(7))
    return method.losses(network, Images(x, None, None), drawn, slice(1, 6)), network, x, eps[1:6]


def test_the_loss_is_the_absolute_error_the_perceptual_distance_and_the_divergence_of_each_image() -> None:
    values, network, x, eps = values_of(tiny.SETTINGS)
    assert isinstance(network, AutoencoderKL)
    loss, reconstruction, perceptual, kl = values.unbind(dim=1)
    mean, log_var = network.q(x)
    q = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    x_hat = network.decode(q.mean + q.stddev * eps)
    divergence = torch.distributions.kl_divergence(q, torch.distributions.Normal(0, 1)).sum(dim=(1, 2, 3))
    assert torch.allclose(reconstruction, (x - x_hat).abs().mean(dim=(1, 2, 3)), atol=1e-5)
    assert torch.allclose(perceptual, tiny.distance()(x, x_hat), atol=1e-5)
    assert torch.allclose(kl, divergence / 64, rtol=1e-4)
    assert torch.allclose(loss, reconstruction + 0.5 * perceptual + 1e-3 * kl)


def test_without_a_weight_the_perceptual_distance_is_not_needed() -> None:
    settings = dataclasses.replace(tiny.SETTINGS, perceptual_weight=0.0)
    training = tiny.begin(settings=settings)
    training.perceptual = None
    step = next(training.steps())
    assert float(step.terms[0, 1]) == 0
    assert math.isfinite(float(step.loss))


def test_one_backward_pass_gives_autoencoder_and_discriminator_the_gradient_of_their_own_loss_alone() -> None:
    values, network, x, eps = values_of(tiny.WITH_A_JUDGE)
    assert isinstance(network, JudgedAutoencoder)
    values[:, 0].mean().backward()
    A, D = network.autoencoder, network.discriminator
    x_hat, mean, log_var = A(x, eps)
    real, fake = D(x), D(x_hat.detach())
    loss_D = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    loss_A = (x - x_hat).abs().mean() + 0.5 * tiny.distance()(x, x_hat).mean()
    loss_A = loss_A + 1e-3 * 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum() / x.numel() - 0.1 * D(x_hat).mean()
    assert float(values[:, 4].detach().mean()) == pytest.approx(float(loss_D.detach()), rel=1e-5)
    assert float(values[:, 5].detach().mean()) == pytest.approx(-float(D(x_hat).mean().detach()), rel=1e-4)
    for part, loss in ((D, loss_D), (A, loss_A)):
        found = torch.autograd.grad(loss, list(part.parameters()), retain_graph=True)
        for parameter, gradient in zip(part.parameters(), found, strict=True):
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
        assert any(float(gradient.abs().max()) > 1e-4 for gradient in found)


def test_logits_of_patches_depend_on_their_image_alone_and_on_a_part_of_it() -> None:
    torch.manual_seed(0)
    D = PatchDiscriminator(channels=3, size=32, width=16)
    x = torch.randn(4, 3, 32, 32)
    assert D(x).shape == (4, 1, 4, 4)
    assert torch.allclose(D(x)[1:2], D(x[1:2]), atol=1e-5)
    for size, positions in ((4, 2), (8, 4), (16, 4), (64, 8), (28, 7)):
        assert PatchDiscriminator(channels=1, size=size, width=8)(torch.randn(2, 1, size, size)).shape == (
            2,
            1,
            positions,
            positions,
        )


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_a_training_that_was_stopped_is_bitwise_the_one_that_was_not(name: str, precision: Any, tmp_path: Path) -> None:
    undisturbed = tiny.begin(settings=CASES[name], precision=precision)
    losses = [float(step.loss) for step in undisturbed.steps()]
    assert all(math.isfinite(loss) for loss in losses)
    stopped = tiny.begin(tmp_path, settings=CASES[name], precision=precision)
    for number, _ in enumerate(stopped.steps(), start=1):
        if number == 3:
            stopped.save(wait=True)
            break
    torch.manual_seed(123)
    resumed = tiny.begin(tmp_path, settings=CASES[name], precision=precision)
    assert resumed.saved_images == 48
    assert [float(step.loss) for step in resumed.steps()] == losses[3:]
    there = weights(undisturbed)
    assert all(torch.equal(tensor, there[key]) for key, tensor in weights(resumed).items())


@pytest.mark.parametrize("name", CASES)
def test_accumulation_changes_a_step_only_by_rounding(name: str) -> None:
    whole, divided = tiny.begin(settings=CASES[name]), tiny.begin(settings=CASES[name], device_batch=5)
    for one, other in zip(whole.steps(), divided.steps(), strict=True):
        assert torch.allclose(one.losses, other.losses, rtol=1e-2, atol=1e-3)
        assert torch.allclose(one.terms, other.terms, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", CASES)
def test_state_and_model_have_no_weights_of_the_perceptual_distance_and_the_model_none_of_the_discriminator(
    name: str,
) -> None:
    training = tiny.begin(settings=CASES[name])
    for _ in training.steps():
        pass
    in_training = _network_in_training(training.spec, CASES[name]).state_dict().keys()
    assert training.state.network.state_dict().keys() == in_training
    assert training.state.ema.network.state_dict().keys() == in_training
    model = training.average()
    assert isinstance(model, AutoencoderKL)
    assert model.state_dict().keys() == AutoencoderKL(channels=1, **vars(codec_of(tiny.SETTINGS))).state_dict().keys()
    assert len(training.terms) == (3 if name == "plain" else 5)


def test_other_losses_and_another_perceptual_distance_are_other_trainings() -> None:
    def fingerprint(perceptual: str = "one", **changes: Any) -> str:
        distance = dataclasses.replace(tiny.distance(), sha256=perceptual)
        return tiny.begin(settings=dataclasses.replace(tiny.SETTINGS, **changes), perceptual=distance).fingerprint

    changed = [{"kl_weight": 0.1}, {"perceptual_weight": 0.1}, {"adversarial_weight": 0.1}, {"perceptual": "two"}]
    assert len({fingerprint(), *(fingerprint(**each) for each in changed)}) == 5
    assert fingerprint() == fingerprint()


def test_a_few_steps_make_reconstructions_better() -> None:
    settings = dataclasses.replace(tiny.SETTINGS, images=16 * 60, perceptual_weight=0.0, lr=0.004)
    errors = [float(step.terms[0, 0]) / 16 for step in tiny.begin(settings=settings).steps()]
    assert sum(errors[-5:]) < 0.8 * sum(errors[:5])


def test_shares_of_the_length_become_numbers_of_images() -> None:
    train = train_of(dataclasses.replace(tiny.SETTINGS, images=10_000))
    assert (train.warmup_images, train.decay_images, train.ema_halflife_images) == (200, 5000, 200)
    assert train_of(dataclasses.replace(tiny.SETTINGS, images=1)).ema_halflife_images == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"multipliers": ()}, "multipliers has 0 numbers, expected 1 to 12"),
        ({"multipliers": (1, 0)}, r"multipliers is \[1, 0\], expected numbers of 1 or above"),
        ({"width": 12}, "width is 12, expected a multiple of 8"),
        ({"groups": 3}, r"width is 8, expected a multiple of 8 and of groups \(3\)"),
        ({"kl_weight": -1.0}, "kl_weight is -1.0, expected 0 or above"),
        ({"images": 0}, "images is 0, expected a number above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(tiny.SETTINGS, **changes)
