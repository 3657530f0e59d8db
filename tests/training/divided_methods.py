"""Trainings of a VAE, a GAN and an autoencoder in several processes, see test_methods_divided."""

import dataclasses
import json
from pathlib import Path

import tiny_autoencoder
import tiny_training as tiny

from ddpm.compute.processes import joined, rank, together
from ddpm.networks.settings import Gan, Vae

SPECS = {
    "vae": dataclasses.replace(tiny.SPEC, method="vae", vae=Vae(width=8, blocks=1, latent_channels=4, latent_size=1)),
    "gan": dataclasses.replace(tiny.SPEC, method="gan", gan=Gan(width=8, latent=4, r1_gamma=1.0, beta1=0.0)),
}
JUDGED = "sharded with a judge"
AUTOENCODERS = {
    name: dataclasses.replace(settings, images=16 * 4)
    for name, settings in (("autoencoder", tiny_autoencoder.SETTINGS), (JUDGED, tiny_autoencoder.WITH_A_JUDGE))
}
NAMES = [*SPECS, *AUTOENCODERS]
SETTINGS = dataclasses.replace(tiny.SETTINGS, images=16 * 4, warmup_images=16, decay_images=16)


def numbers(name: str) -> list[list[float]]:
    """Return the loss and the sums of the terms of each step, and last the sums of the weights of the model."""
    if name in AUTOENCODERS:
        training = tiny_autoencoder.begin(settings=AUTOENCODERS[name], parallel="fsdp" if name == JUDGED else "ddp")
    else:
        training = tiny.begin(tiny.NOWHERE, settings=SETTINGS, spec=SPECS[name])
    found = [[float(step.loss), *step.terms[0].tolist()] for step in training.steps()]
    return [*found, [float(p.detach().double().abs().sum()) for p in training.average().parameters()]]


def in_processes(folder: Path) -> None:
    with joined(tiny.PARAMS.runtime):
        found = {name: numbers(name) for name in NAMES}
        together()
    (folder / f"numbers-{rank()}.json").write_text(json.dumps(found))
