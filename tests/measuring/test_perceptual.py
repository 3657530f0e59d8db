"""The perceptual distance is that of the extractor in its file: 0 for equal images, and it has a gradient."""

import re
from pathlib import Path

import pytest
import torch
from published_weights import random_dinov2
from torch import Tensor

from ddpm.errors import UserError
from ddpm.measuring.features.classifier import Classifier
from ddpm.measuring.features.extractor import Extractor
from ddpm.measuring.features.extractor_file import save
from ddpm.measuring.features.perceptual import PerceptualDistance, perceptual_distance
from ddpm.measuring.features.pretrained import load_pretrained


def distance(folder: Path, *, channels: int = 1, size: int = 8) -> PerceptualDistance:
    torch.manual_seed(0)
    network = Classifier(channels=channels, size=size, classes=10, dim=16).eval().requires_grad_(False)
    extractor = Extractor(network, "classifier", 0.5)
    save(extractor, folder / "extractor.safetensors")
    made = perceptual_distance(folder / "extractor.safetensors", "cpu")
    assert made.sha256 == extractor.sha256
    return made


def images(*, channels: int = 1, size: int = 8) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.rand(3, channels, size, size, generator=draw) * 2 - 1
    return x, x + 0.3 * torch.randn(x.shape, generator=draw)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (1, 64), (2, 28)])
def test_it_is_0_for_equal_images_grows_with_the_difference_and_has_a_gradient(
    channels: int, size: int, tmp_path: Path
) -> None:
    between = distance(tmp_path, channels=channels, size=size)
    x, y = images(channels=channels, size=size)
    x_hat = y.requires_grad_()
    found = between(x, x_hat)
    assert found.shape == (3,)
    assert torch.equal(between(x, x), torch.zeros(3))
    assert bool((found > between(x, x + (x_hat - x) / 4)).all())
    assert bool((found > 0.001).all())
    assert float(found.detach().max()) < 4
    (gradient,) = torch.autograd.grad(found.sum(), x_hat)
    assert gradient.shape == x.shape
    assert bool((gradient.flatten(1).abs().amax(dim=1) > 1e-6).all())
    assert not any(parameter.requires_grad for parameter in between.network.parameters())


def test_it_is_the_mean_over_layers_and_positions_of_squared_differences_of_directions(tmp_path: Path) -> None:
    between = distance(tmp_path)
    x, y = images()
    layers = list(zip(between.network.activations(x), between.network.activations(y), strict=True))
    assert [a.shape[2:] for a, _ in layers] == [(8, 8), (8, 8), (4, 4)]
    cosines = [torch.cosine_similarity(a, b, dim=1).mean(dim=(1, 2)) for a, b in layers]
    expected = sum(2 - 2 * cosine for cosine in cosines) / len(layers)
    assert torch.allclose(between(x, y), expected, atol=1e-4)


def test_the_last_activations_are_those_of_the_features(tmp_path: Path) -> None:
    network = distance(tmp_path).network
    x, _ = images()
    first, *_, last = network.activations(x)
    pooled = torch.cat([first.mean(dim=(2, 3)), last.mean(dim=(2, 3))], dim=1)
    assert torch.allclose(network(x)[0], (pooled - network.mean) / network.std, atol=1e-5)


def test_the_gradient_is_finite_where_the_layers_see_nothing(tmp_path: Path) -> None:
    network = Classifier(channels=1, size=8, classes=10, dim=16)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    x_hat = torch.zeros(2, 1, 8, 8, requires_grad=True)
    PerceptualDistance(network, "")(torch.zeros(2, 1, 8, 8), x_hat).sum().backward()
    assert x_hat.grad is not None
    assert bool(x_hat.grad.isfinite().all())


def test_a_published_network_is_refused(tmp_path: Path) -> None:
    random_dinov2(tmp_path / "weights.pth", width=384, depth=12)
    save(load_pretrained("dinov2", tmp_path / "weights.pth"), tmp_path / "extractor.safetensors")
    says = "needs an extractor that the pipeline trained; set autoencoder.perceptual_weight to 0"
    with pytest.raises(UserError, match=re.escape(says)):
        perceptual_distance(tmp_path / "extractor.safetensors", "cpu")
