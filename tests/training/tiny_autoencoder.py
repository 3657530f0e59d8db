"""A training of a tiny autoencoder on the random images of `tiny_training`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_training as tiny
import torch
from torch import Tensor, nn

from ddpm.model_spec import Spec, spec_of_autoencoder
from ddpm.training import session
from ddpm.training.autoencoder import codec_of, train_of
from ddpm.training.settings import Autoencoder

SETTINGS = Autoencoder(
    width=8,
    multipliers=(1, 2),
    blocks=1,
    latent_channels=2,
    groups=4,
    attention=True,
    images=16 * 8,
    batch_size=16,
    lr=0.002,
    kl_weight=1e-3,
    perceptual_weight=0.5,
    adversarial_weight=0.0,
    seed=0,
    pretrained=None,
)
WITH_A_JUDGE = dataclasses.replace(SETTINGS, adversarial_weight=0.1)


@dataclass(eq=False)
class Distance:
    """A perceptual distance by a random layer, in place of the trained extractor."""

    layer: nn.Module
    sha256: str = "random"

    def __call__(self, x: Tensor, x_hat: Tensor) -> Tensor:
        return (self.layer(x) - self.layer(x_hat)).square().flatten(1).mean(dim=1)


def distance() -> Distance:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Distance(nn.Conv2d(1, 5, 3, padding=1).requires_grad_(False))


def spec_of(settings: Autoencoder) -> Spec:
    return spec_of_autoencoder(channels=1, size=8, codec=codec_of(settings))


def begin(
    folder: Path = tiny.NOWHERE,
    *,
    settings: Autoencoder = SETTINGS,
    perceptual: Distance | None = None,
    precision: Any = "float32",
    **changes: Any,
) -> session.Training:
    """Return a training from the last checkpoint in `folder`, if there is one; `changes` are settings of `runtime`."""
    settled: dict[str, Any] = {"checkpoint_seconds": 0.05, "progress": False, "deterministic": True}
    return session.begin(
        spec_of(settings),
        tiny.IMAGES,
        None,
        data_hash="made up",
        code_hash="made up",
        settings=train_of(settings),
        runtime=dataclasses.replace(tiny.PARAMS.runtime, **settled | changes),
        device=torch.device("cpu"),
        precision=precision,
        state_folder=folder,
        autoencoder=settings,
        perceptual=perceptual or distance(),
    )
