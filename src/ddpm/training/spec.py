"""The specification of the model that a training makes."""

from collections.abc import Sequence
from typing import Any

from ddpm.diffusion.settings import Objective, Schedule
from ddpm.model_spec import Spec
from ddpm.networks.settings import CONVENTION, Condition, Convention, Gan, Kind, Method, Network, Text, Tokenizer, Vae
from ddpm.settings import as_dict
from ddpm.training import augmentation
from ddpm.training.settings import Train

SECTIONS = ("method", "schedule", "objective", "network", "vae", "gan", "condition", "text", "train")
"""Parts of params.yaml by which a model is specified."""
_READ: dict[Kind, tuple[str, ...]] = {
    "diffusion": ("schedule", "objective", "network"),
    "vae": ("vae",),
    "gan": ("gan",),
}


def settings_of(spec: Spec) -> dict[str, Any]:
    """Return the method and the sections that specify a model of this method, as plain values."""
    condition: Condition = "text" if spec.text is not None else "label" if spec.classes else "none"
    read = (*_READ[spec.method], *(["text"] if spec.text is not None else []))
    return {"method": spec.method, "condition": condition} | {name: as_dict(getattr(spec, name)) for name in read}


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
    condition: Condition = "label",
    text: Text | None = None,
    tokenizer: Tokenizer | None = None,
    convention: Convention = CONVENTION,
) -> Spec:
    """Return the specification for images of size x size pixels with these classes, by the sections of params.yaml.

    Of `vae` and `gan` only the section of the method becomes part of it; of `classes`, and of `text` and `tokenizer`,
    what `condition` names. Without a tokenizer, as for data that are not prepared, the model reads single bytes.
    """
    known = tuple(classes) if condition == "label" else ()
    is_text = condition == "text"
    return Spec(
        channels=channels,
        size=size,
        classes=known,
        unconditional=not (known or is_text) or train.label_dropout > 0,
        schedule=schedule,
        objective=objective,
        network=network,
        convention=convention,
        augmentation=augmentation.numbers_in(train.augment),
        method=method,
        vae=vae if method == "vae" else None,
        gan=gan if method == "gan" else None,
        text=text if is_text else None,
        tokenizer=(tokenizer or Tokenizer(merges=())) if is_text else None,
    )
