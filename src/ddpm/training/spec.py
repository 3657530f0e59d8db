"""The specification of the model that a training makes."""

from collections.abc import Sequence

from ddpm.diffusion.settings import Objective, Schedule
from ddpm.model_spec import Spec
from ddpm.networks.settings import CONVENTION, Convention, Network
from ddpm.training import augmentation
from ddpm.training.settings import Train


def spec_of(
    *,
    channels: int,
    size: int,
    classes: Sequence[str],
    schedule: Schedule,
    objective: Objective,
    network: Network,
    train: Train,
    convention: Convention = CONVENTION,
) -> Spec:
    """Return the specification for images of size x size pixels with these classes, by the sections of params.yaml."""
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
    )
