"""The record of an autoencoder: what it loses, and what its latents are."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.images import to_model_range
from ddpm.measuring.features.classifier import Classifier
from ddpm.measuring.features.extractor import Extractor, describe
from ddpm.measuring.frechet import frechet_distance
from ddpm.measuring.psnr_ssim import psnr
from ddpm.measuring.reconstruction import measure_reconstruction
from ddpm.networks.autoencoder_kl import AutoencoderKL
from ddpm.networks.settings import Codec
from ddpm.params import load as load_params

CPU = torch.device("cpu")
SETTINGS = load_params(Path(__file__).parents[2] / "params.yaml").evaluate
CODEC = Codec(latent_channels=2, widths=(8, 16), blocks=1, groups=4, attention=True, quant=False, shift=0.5, scale=2.0)
TRAIN, TEST = np.random.default_rng(0).integers(0, 256, (2, 60, 1, 8, 8), dtype=np.uint8)


def random_network() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(channels=1, **vars(CODEC)).eval().requires_grad_(False)


class Perfect(AutoencoderKL):
    """Its latents are the images: a quarter of the pixels in each of four channels."""

    def q(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.nn.functional.pixel_unshuffle(x, 2)
        return mean, torch.full_like(mean, -2.0)

    def reconstruct(self, z: Tensor) -> Tensor:
        return torch.nn.functional.pixel_shuffle(z, 2)


def extractor() -> Extractor:
    torch.manual_seed(1)
    return Extractor(Classifier(channels=1, size=8, classes=3, dim=16).eval().requires_grad_(False), "classifier", 0.5)


def measured(network: AutoencoderKL, *, train: Any = TRAIN, test: Any = TEST, batch: int = 25) -> dict[str, Any]:
    record = measure_reconstruction(
        network,
        train,
        test,
        extractor=extractor(),
        settings=dataclasses.replace(SETTINGS, kid_subset_size=10),
        n=50,
        seed=3,
        device=CPU,
        precision="float32",
        batch=batch,
        progress=False,
    )
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    return record


def test_an_autoencoder_that_loses_nothing_has_the_metrics_of_the_images_themselves() -> None:
    found = measured(Perfect(channels=1, **vars(CODEC)))
    assert found["n"] == 60
    assert found["psnr"] == pytest.approx(100, abs=1)
    assert found["ssim"] == pytest.approx(1)
    assert found["reconstruction_fid"] == pytest.approx(0, abs=1e-5)
    assert found["decoded"]["fid"] == found["decoded"]["floor"]
    assert found["decoded"]["n"] == 50
    values = torch.from_numpy(TEST) / 127.5 - 1
    q = torch.distributions.Normal(values, float(np.exp(-1)))
    divergence = torch.distributions.kl_divergence(q, torch.distributions.Normal(0, 1)).sum(dim=(1, 2, 3)).mean()
    assert found["kl"] == pytest.approx(float(divergence), rel=1e-5)
    latents = 2 * (values - 0.5)
    assert found["latents"]["mean"] == pytest.approx(float(latents.mean()), rel=1e-5)
    assert found["latents"]["std"] == pytest.approx(float(latents.std()), rel=1e-3)
    assert len(found["latents"]["mean_by_channel"]) == 4
    assert found["latents"]["std_by_channel"][1] == pytest.approx(float(latents[..., ::2, 1::2].std()), rel=1e-3)


def test_the_metrics_are_those_of_the_mean_of_q_decoded() -> None:
    network = random_network()
    found = measured(network)
    x = to_model_range(torch.from_numpy(TEST))
    x_hat = network.decode(network.encode(x)).clamp(-1, 1)
    assert found["psnr"] == pytest.approx(float(psnr(x, x_hat).mean()), rel=1e-6)
    assert found["latents"]["std"] == pytest.approx(float(network.encode(x).std()), rel=1e-3)
    levels = ((x_hat + 1) * 127.5).round().to(torch.uint8).numpy()
    made, real = (describe(extractor(), each, device=CPU, progress=False, what="") for each in (levels, TEST))
    assert found["reconstruction_fid"] == pytest.approx(frechet_distance(made, real), rel=1e-5)
    fid, floor = found["decoded"]["fid"], found["decoded"]["floor"]
    assert fid["interval"]["low"] < fid["value"] < fid["interval"]["high"]
    assert fid["value"] > floor["value"], "a random autoencoder loses something"


def test_batches_do_not_change_the_record() -> None:
    one, other = measured(random_network(), batch=60), measured(random_network(), batch=7)
    assert one["reconstruction_fid"] == other["reconstruction_fid"]
    assert one["decoded"] == other["decoded"]
    for name in ("psnr", "ssim", "kl"):
        assert one[name] == pytest.approx(other[name], rel=1e-9)


def test_with_too_few_images_there_is_no_fid_but_everything_else() -> None:
    found = measured(random_network(), test=TEST[:16])
    assert found["reconstruction_fid"] is None
    assert found["decoded"] == {"n": 50, "fid": None, "floor": None}
    assert found["n"] == 16
    assert found["psnr"] > 0
