"""The specification of the model that a training makes."""

from collections.abc import Sequence
from typing import Any

from ddpm.diffusion.settings import Objective, Schedule
from ddpm.model_spec import Spec
from ddpm.networks.settings import CONVENTION, Convention, Gan, Method, Network, Vae
from ddpm.settings import as_dict
from ddpm.training import augmentation
from ddpm.training.settings import Train

SECTIONS = ("method", "schedule", "objective", "network", "vae", "gan", "train")
"""Parts of params.yaml by which a model is specified."""
_READ: dict[Method, tuple[str, ...]] = {
    "diffusion": ("schedule", "objective", "network"),
    "vae": ("vae",),
    "gan": ("gan",),
}


def settings_of(spec: Spec) -> dict[str, Any]:
    """Return the method and the sections that specify a model of this method, as plain values."""
    return {"method": spec.method} | {name: as_dict(getattr(spec, name)) for name in _READ[spec.method]}


def spec_of(
    *,
    channels: int,
    size: int,
    classes: Sequence[str],
    schedule: Schedule,
    objective: Objective,
    network: Network,
    train: Train,
    method: Method = "diffusion",
    vae: Vae | None = None,
    gan: Gan | None = None,
    convention: Convention = CONVENTION,
) -> Spec:
    """Return the specification for images of size x size pixels with these classes, by the sections of params.yaml.

    Of `vae` and `gan` only the section of the method becomes part of it.
    """
    return Spec(
        channels=channels,
        size=size,
        classes=tuple(classes),
        unconditional=not classes or train.label_dropout > 0,
        schedule=schedule,
        objective=objective,
        network=network,
        convention=convention,
        augmentation=augmentation.numbers_in(train.augment),
        method=method,
        vae=vae if method == "vae" else None,
        gan=gan if method == "gan" else None,
    )
