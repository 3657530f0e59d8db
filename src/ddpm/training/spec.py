"""The specification of the model that a training makes."""

from collections.abc import Sequence
from typing import Any

from ddpm.degrading.settings import ImageCondition
from ddpm.diffusion.settings import Objective, Schedule
from ddpm.model_spec import Spec
from ddpm.networks.settings import (
    CONVENTION,
    Codec,
    Condition,
    Convention,
    Domain,
    Gan,
    Kind,
    Method,
    Network,
    Text,
    Tokenizer,
    Vae,
)
from ddpm.settings import as_dict
from ddpm.training import augmentation
from ddpm.training.autoencoder import codec_of
from ddpm.training.settings import Train

SECTIONS = ("method", "schedule", "objective", "network", "vae", "gan", "condition", "text", "image", "codec", "train")
"""Parts of params.yaml by which a model is specified."""
_READ: dict[Kind, tuple[str, ...]] = {
    "diffusion": ("schedule", "objective", "network"),
    "vae": ("vae",),
    "gan": ("gan",),
}


def sections_of(params: Any) -> dict[str, Any]:
    """Return the parts of params.yaml as `spec_of` takes them; an autoencoder is one that is not trained yet."""
    found = {name: getattr(params, name) for name in SECTIONS}
    return found | ({} if params.codec == "pixels" else {"autoencoder": codec_of(params.autoencoder)})


def settings_of(spec: Spec) -> dict[str, Any]:
    """Return the method and the sections that specify a model of this method, as plain values."""
    read = [*_READ[spec.method], *(name for name in ("text", "image") if getattr(spec, name) is not None)]
    codec: Domain = "pixels" if spec.codec is None else "autoencoder"
    return {"method": spec.method, "condition": _condition(spec), "codec": codec} | {
        name: as_dict(getattr(spec, name)) for name in read
    }


def _condition(spec: Spec) -> Condition:
    if spec.text is not None:
        return "text"
    return "image" if spec.image is not None else "label" if spec.classes else "none"


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
    image: ImageCondition | None = None,
    codec: Domain = "pixels",
    autoencoder: Codec | None = None,
    convention: Convention = CONVENTION,
) -> Spec:
    """Return the specification for images of size x size pixels with these classes, by the sections of params.yaml.

    Of `vae` and `gan` only the section of the method becomes part of it; of `classes`, of `text` and `tokenizer`, and
    of `image`, what `condition` names; `autoencoder` only with that `codec`. Without a tokenizer, as for data that are
    not prepared, the model reads single bytes. Raises UserError for a degradation that the images cannot have.
    """
    known = tuple(classes) if condition == "label" else ()
    is_text, is_image = condition == "text", condition == "image"
    assert codec == "pixels" or autoencoder is not None
    if is_image and image is not None:
        image.require_fits(channels=channels, size=size)
    return Spec(
        channels=channels,
        size=size,
        classes=known,
        unconditional=not (known or is_text or is_image) or train.label_dropout > 0,
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
        image=image if is_image else None,
        codec=None if codec == "pixels" else autoencoder,
    )
