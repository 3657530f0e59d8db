"""VAE and GAN train in the loop of diffusion: exact resume, division, losses, drawing, model file."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm import model_file
from ddpm.errors import UserError
from ddpm.generation import pictures
from ddpm.generation.batch import PerImageNoise
from ddpm.generation.generate import generate
from ddpm.generation.recipe import DIRECTLY
from ddpm.measuring import bits_per_dim
from ddpm.model_file import Model
from ddpm.model_spec import Spec, build_network
from ddpm.networks.gan import Adversaries
from ddpm.networks.settings import Gan, Vae
from ddpm.networks.vae import Autoencoder
from ddpm.training import session
from ddpm.training.spec import spec_of

VAE = Vae(width=8, blocks=1, latent_channels=4, latent_size=1)
GAN = Gan(width=8, latent=4, r1_gamma=1.0, beta1=0.0)
SPECS = {
    "vae": dataclasses.replace(tiny.SPEC, method="vae", vae=VAE),
    "vae with a map": dataclasses.replace(tiny.SPEC, method="vae", vae=dataclasses.replace(VAE, latent_size=2)),
    "gan": dataclasses.replace(tiny.SPEC, method="gan", gan=GAN),
}
SETTINGS = dataclasses.replace(tiny.SETTINGS, images=16 * 8, warmup_images=16, decay_images=32)


def begin(name: str, folder: Path = tiny.NOWHERE, **changes: Any) -> session.Training:
    return tiny.begin(folder, settings=SETTINGS, spec=SPECS[name], **changes)


def trained(name: str) -> Model:
    training = begin(name)
    for _ in training.steps():
        pass
    return Model(training.average().eval().requires_grad_(False), SPECS[name], lineage={}, sha256="")


def weights(training: session.Training) -> dict[str, Tensor]:
    return {
        f"{kind}.{name}": tensor
        for kind, network in (("network", training.state.network), ("ema", training.state.ema.network))
        for name, tensor in network.state_dict().items()
    }


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", SPECS)
def test_a_training_that_was_stopped_is_bitwise_the_one_that_was_not(name: str, precision: Any, tmp_path: Path) -> None:
    undisturbed = begin(name, precision=precision)
    losses = [float(step.loss) for step in undisturbed.steps()]
    assert all(math.isfinite(loss) for loss in losses)
    stopped = begin(name, tmp_path, precision=precision)
    for number, _ in enumerate(stopped.steps(), start=1):
        if number == 3:
            stopped.save(wait=True)
            break
    torch.manual_seed(123)
    resumed = begin(name, tmp_path, precision=precision)
    assert [float(step.loss) for step in resumed.steps()] == losses[3:]
    there = weights(undisturbed)
    assert all(torch.equal(tensor, there[key]) for key, tensor in weights(resumed).items())


@pytest.mark.parametrize("name", SPECS)
def test_accumulation_changes_a_step_only_by_rounding(name: str) -> None:
    whole, divided = begin(name), begin(name, device_batch=5)
    for one, other in zip(whole.steps(), divided.steps(), strict=True):
        assert torch.allclose(one.losses, other.losses, rtol=1e-2, atol=1e-3)
        assert torch.allclose(one.terms, other.terms, rtol=1e-2, atol=1e-2)
        if one.images_seen == 48:
            break


@pytest.mark.parametrize("name", SPECS)
def test_image_k_of_a_seed_is_the_same_in_every_batch(name: str) -> None:
    model, labels = trained(name), torch.arange(9) % 3
    drawn = [generate(model, DIRECTLY, n=9, seed=5, condition=labels, batch=batch) for batch in (9, 4, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert len(drawn[0].unique(dim=0)) == 9
    unlabelled = generate(model, DIRECTLY, n=9, seed=5, condition=None, batch=9)
    assert not torch.equal(unlabelled, drawn[0])
    assert pictures.preview(model, "float32").size == (546, 546)


@pytest.mark.parametrize("name", SPECS)
def test_a_model_file_draws_the_same_images_and_has_no_discriminator(name: str, tmp_path: Path) -> None:
    model, path = trained(name), tmp_path / "model.safetensors"
    model_file.save(path, network=model.network, spec=model.spec, lineage={})
    loaded = model_file.load(path)
    assert loaded.spec == model.spec
    assert not any("discriminator" in key for key in loaded.network.state_dict())
    labels = torch.arange(6) % 3
    one, other = (generate(each, DIRECTLY, n=6, seed=0, condition=labels, batch=6) for each in (model, loaded))
    assert torch.equal(one, other)
    with pytest.raises(UserError, match=r"draws in one evaluation and has none; use a diffusion model"):
        loaded.estimator()


def test_the_animation_of_a_vae_ends_in_the_first_images_of_the_evaluation(tmp_path: Path) -> None:
    model = trained("vae")
    pictures.animate(model, DIRECTLY, tmp_path / "walk.gif", seed=3)
    batch = pictures.Batch(
        model=model, recipe=DIRECTLY, seed=3, indices=range(4), condition=torch.zeros(4, dtype=torch.int64)
    )
    *_, last = pictures.walk(batch, 5)
    assert torch.allclose(last, batch.drawn(batch.noise()()), atol=1e-5)
    assert (tmp_path / "walk.gif").stat().st_size > 1000


def test_the_loss_of_the_vae_is_the_negative_elbo() -> None:
    network = build_network(SPECS["vae"])
    assert isinstance(network, Autoencoder)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x, eps, y = torch.rand(3, 1, 8, 8) * 2 - 1, torch.randn(3, 4), torch.tensor([0, 2, 3])
    loss, reconstruction, kl = network(x, eps, y).unbind(dim=1)
    mean, log_var = network.q(x, y)
    q = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    p = torch.distributions.Normal(network.draw(q.mean + q.stddev * eps, y), network.log_sigma.exp())
    log_likelihood = p.log_prob(x).sum(dim=(1, 2, 3))
    divergence = torch.distributions.kl_divergence(q, torch.distributions.Normal(0, 1)).sum(dim=1)
    assert torch.allclose(reconstruction, -log_likelihood / 64, rtol=1e-4)
    assert torch.allclose(kl, divergence / 64, rtol=1e-4)
    assert torch.allclose(loss, (divergence - log_likelihood) / 64, rtol=1e-4)


def test_the_bits_per_dimension_of_a_vae_are_its_elbo_in_grey_levels() -> None:
    model = trained("vae")
    measured = bits_per_dim.measure(model, tiny.IMAGES, tiny.LABELS, n=37, batch=10, progress=False)
    assert measured.bound == pytest.approx(measured.bound_prior + measured.bound_decoder)
    assert {name: values.mean() for name, values in measured.by_image.items()} == pytest.approx(
        {name: getattr(measured, name) for name in ("bound", "bound_prior", "bound_decoder")}
    ), "the gate compares two VAEs image by image"
    network = model.network
    assert isinstance(network, Autoencoder)
    x, labels = torch.from_numpy(tiny.IMAGES) / 127.5 - 1, torch.from_numpy(tiny.LABELS)
    mean, log_var = network.q(x, labels)
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (0.5 * log_var).exp()), torch.distributions.Normal(0, 1)
    )
    assert measured.bound_prior == pytest.approx(float(divergence.sum(dim=1).mean()) / 64 / math.log(2), rel=1e-4)
    eps = PerImageNoise(0, range(37), (4,), torch.device("cpu"))()
    p = torch.distributions.Normal(network.draw(mean + (0.5 * log_var).exp() * eps, labels), network.log_sigma.exp())
    above = torch.where(x > 1 - 1 / 255, 1.0, p.cdf(x + 1 / 255))
    below = torch.where(x < -1 + 1 / 255, 0.0, p.cdf(x - 1 / 255))
    assert measured.bound_decoder == pytest.approx(float(-(above - below).log2().mean()), rel=1e-3)


def adversaries() -> tuple[Adversaries, Tensor, Tensor, Tensor]:
    network = session._network_in_training(SPECS["gan"])
    assert isinstance(network, Adversaries)
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network, torch.rand(5, 1, 8, 8) * 2 - 1, torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])


def gradients(loss: Tensor, network: torch.nn.Module) -> list[Tensor]:
    parameters = list(network.parameters())
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def test_one_backward_pass_gives_each_network_the_gradient_of_its_own_loss_alone() -> None:
    network, x, z, y = adversaries()
    G, D = network.generator, network.discriminator
    network(x, z, y)[:, 0].mean().backward()

    fake = G(z, y)
    real = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(D(real, y).sum(), real, create_graph=True)
    r1 = slope.square().sum(dim=(1, 2, 3))
    loss_D = (F.softplus(-D(x, y)) + F.softplus(D(fake.detach(), y)) + 0.5 * r1).mean()
    loss_G = F.softplus(-D(fake, y)).mean()
    for network_, loss in ((D, loss_D), (G, loss_G)):
        expected = gradients(loss, network_)
        for parameter, gradient in zip(network_.parameters(), expected, strict=True):
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
            assert float(gradient.abs().max()) > 0 or parameter.numel() == 1


def test_r1_is_the_squared_slope_of_the_discriminator_at_each_real_image() -> None:
    network, x, z, y = adversaries()
    r1 = network(x, z, y)[:, 3].detach()
    D, h = network.discriminator.requires_grad_(False), 1e-3  # so small that few slopes change within it
    for k in range(len(x)):
        slopes = []
        for pixel in range(64):
            step = torch.zeros(64)
            step[pixel] = h
            ends = [D((x[k : k + 1] + sign * step.view(1, 1, 8, 8)), y[k : k + 1]) for sign in (1, -1)]
            slopes.append(float(ends[0] - ends[1]) / (2 * h))
        assert float(r1[k]) == pytest.approx(sum(slope**2 for slope in slopes), rel=1e-2)


def test_the_default_models_have_as_many_parameters_as_the_default_diffusion_model() -> None:
    params = tiny.PARAMS
    digits: dict[str, Any] = {"channels": 1, "size": 8, "classes": [str(k) for k in range(10)], "train": params.train}
    names = ("schedule", "objective", "network", "vae", "gan")
    sections = {name: getattr(params, name) for name in names}

    def parameters(method: Any) -> int:
        spec: Spec = spec_of(**digits, **sections, method=method)
        return sum(p.numel() for p in session._network_in_training(spec).parameters())

    of_diffusion = parameters("diffusion")
    for method in ("vae", "gan"):  # all that are trained: of a GAN those of both networks
        assert parameters(method) == pytest.approx(of_diffusion, rel=0.1), method


def test_a_gan_has_no_likelihood_and_says_so() -> None:
    with pytest.raises(UserError, match=r"a likelihood, which a GAN does not have; set evaluate\.bits_per_dim to 0"):
        bits_per_dim.measure(trained("gan"), tiny.IMAGES, tiny.LABELS, n=5, batch=5, progress=False)
