"""A request for new images: its fields, their limits and defaults, the same for HTTP, Python and the command line.

The defaults come from the model's recipe, with which the model was measured. A request can set another sampler, steps,
eta and guidance; all other options, including those of the other sampler, come from the recipe.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddpm.errors import UserError
from ddpm.generation.generate import generate
from ddpm.generation.recipe import DIRECTLY, Recipe, neutral, recipe_of
from ddpm.model_file import Model
from ddpm.model_spec import require_diffusion
from ddpm.sampling.catalogue import SAMPLERS
from ddpm.serving import trained_tasks
from ddpm.serving.fields import (
    MAX_GUIDANCE,
    MAX_IMAGES,
    MAX_SEED,
    given_fields,
    label_index,
    real,
    require_both_predictions,
    text_of,
    whole,
)
from ddpm.settings import as_dict
from ddpm.text import conditions

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 64
"""Number of images generated at a time."""
FIELDS = ("number", "label", "text", "seed", "sampler", "steps", "eta", "guidance")
"""The fields that HTTP and the command line have in common."""
ASKED = ("number", "label", "text", "seed")
"""The fields that say which images are asked for, by the settings of the model."""
MAX_FRAMES = 50
MAX_FRAME_BYTES = 2**25
"""Largest size of the frames of a request, in bytes before compression."""


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """A complete request: every field has a value."""

    number: int
    label: int | None
    """Index of a class; None: the classes in turn."""
    seed: int
    recipe: Recipe
    text: str | None = None
    """A caption, without words if it is empty; None: the model's examples in turn."""
    frames: int = 0
    """Largest number of states of the reverse process in the answer; 0: none."""


def complete(fields: Mapping[str, Any], model: Model, *, max_number: int = MAX_IMAGES) -> SampleRequest:
    """Check the fields and complete them; a field that is absent or null gets its default.

    number: 1..max_number (default 1); label: index or name of a class (default: all classes in turn); text: a
    caption (default: the model's examples in turn; empty: without a caption); seed: 0..2^63-1 (default: random). The
    defaults of the others are those of the model's recipe: steps: 1..T; guidance: 0..20; sampler: a key of SAMPLERS;
    eta: 0..1. frames: 0..MAX_FRAMES (default 0).
    Raises UserError, one sentence, for an unknown field, a value outside its limits, a sampler that does not fit the
    model's schedule, a model whose condition is a picture, and a model without a recipe if sampler or steps is missing.
    """
    given = given_fields(fields, (*FIELDS, "frames"))
    if model.asked.image is not None:
        known = trained_tasks.what_it_can_do(model.asked.image)
        raise UserError(f"this model draws from a picture, which the request has not; set task ({known}) and image")
    try:
        recipe = _recipe(given, model) if model.spec.method == "diffusion" else _direct(given, model)
        if model.spec.method == "diffusion":
            recipe.require_fits(model.spec.schedule, called="")
    except ValueError as error:  # two settings exclude each other
        raise UserError(str(error)) from None
    number = whole("number", given.get("number", 1), 1, max_number)
    return SampleRequest(
        number=number,
        label=label_index(given.get("label"), model),
        text=text_of(given.get("text"), model),
        seed=whole("seed", given.get("seed", secrets.randbelow(2**32)), 0, MAX_SEED),
        recipe=recipe,
        frames=_frames(given.get("frames", 0), number, model),
    )


def _frames(frames: Any, number: int, model: Model) -> int:
    """Return the number of frames. Raises UserError if they would take too much memory."""
    frames, bytes_of_one = whole("frames", frames, 0, MAX_FRAMES), number * model.spec.channels * model.spec.size**2
    if frames * bytes_of_one > MAX_FRAME_BYTES:
        raise UserError(
            f"frames is {frames}, expected at most {MAX_FRAME_BYTES // bytes_of_one} for {number} images of this size; "
            "request fewer images or frames"
        )
    return frames


def _recipe(given: Mapping[str, Any], model: Model) -> Recipe:
    """Return the model's recipe, changed by the fields of the request."""
    own, T = recipe_of(model), model.spec.schedule.T
    sampler = given.get("sampler", None if own is None else own.sampler)
    steps = whole("steps", given["steps"], 1, T) if "steps" in given else None if own is None else own.steps
    if sampler is None or steps is None:
        raise UserError("this model's file has no recipe, expected sampler and steps in the request; set both")
    if not isinstance(sampler, str) or sampler not in SAMPLERS:
        raise UserError(f"sampler is {sampler!r}, expected one of {', '.join(SAMPLERS)}")
    own = own or neutral(sampler=sampler, steps=steps)
    if "guidance" in given and model.base is not None:
        raise UserError("guidance is set, but a cascade draws with that of its recipes; leave it out")
    guidance = real("guidance", given["guidance"], 0.0, MAX_GUIDANCE) if "guidance" in given else own.guidance
    if "guidance" in given and guidance != 1 and own.guide is None:
        require_both_predictions(f"guidance is {given['guidance']}, expected 1", "it has nothing to guide with", model)
    eta = real("eta", given["eta"], 0.0, 1.0) if "eta" in given else own.ddim.eta
    if eta not in (0.0, own.ddim.eta) and sampler != "ddim":
        raise UserError(f"eta is {eta:g}, which {sampler} does not use; leave it out or set sampler to ddim")
    return replace(own, sampler=sampler, steps=steps, guidance=guidance, ddim=replace(own.ddim, eta=eta))


def _direct(given: Mapping[str, Any], model: Model) -> Recipe:
    """Return the recipe of a model that draws in one evaluation.

    Raises UserError for a field that changes it: an answer's own fields do not.
    """
    own = recipe_of(model) or DIRECTLY
    same = {"sampler": own.sampler, "steps": own.steps, "eta": own.ddim.eta, "guidance": own.guidance, "frames": 0}
    for name, value in same.items():
        if given.get(name, value) != value:
            require_diffusion(model.spec, name)
    return own


def labels_of(request: SampleRequest, model: Model) -> Tensor | None:
    """Return labels, int64 [number], or None for a model without classes. Label k does not depend on the number."""
    classes = len(model.asked.classes)
    if not classes:
        return None
    if request.label is not None:
        return torch.full((request.number,), request.label)
    return torch.arange(request.number) % classes


def texts_of(request: SampleRequest, model: Model) -> list[str | None] | None:
    """Return the captions, or None for a model without. Caption k does not depend on the number."""
    if model.asked.text is None:
        return None
    if request.text is not None:
        return [request.text] * request.number
    return [conditions.example(model.asked, k) for k in range(request.number)]


def condition_of(request: SampleRequest, model: Model) -> Tensor | None:
    """Return the condition of the images, [number, ...]; None for a model without."""
    texts = texts_of(request, model)
    return labels_of(request, model) if texts is None else conditions.of_texts(model.asked, texts)


def draw(model: Model, request: SampleRequest, *, progress: bool = False) -> Tensor:
    """Generate images, uint8 [number,C,H,W]; the same request gives the same images on the same kind of device."""
    return generate(
        model,
        request.recipe,
        n=request.number,
        seed=request.seed,
        condition=condition_of(request, model),
        batch=BATCH,
        progress=progress,
    )


def as_picture(image: Tensor) -> "Image":
    """Return an image, uint8 [C,H,W], as a grey or RGB picture."""
    from PIL.Image import fromarray

    return fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())


def described(request: SampleRequest, model: Model) -> dict[str, Any]:
    """Return the fields as plain values, with the class name of each image instead of label and number."""
    labels, recipe, texts = labels_of(request, model), request.recipe, texts_of(request, model)
    return ({} if texts is None else {"texts": texts}) | {
        "labels": None if labels is None else [model.asked.classes[k] for k in labels.tolist()],
        "seed": request.seed,
        "sampler": recipe.sampler,
        "steps": recipe.steps,
        "eta": recipe.ddim.eta,
        "guidance": recipe.guidance,
    }


def again(request: SampleRequest, model: Model) -> dict[str, Any]:
    """Return, as plain values, what the request has besides `described`: number, label or text, and the recipe."""
    label = None if request.label is None else model.asked.classes[request.label]
    guide = request.recipe.guide and Path(request.recipe.guide).name  # a sha256; or a file, whose folder is private
    text = {} if model.asked.text is None else {"text": request.text}
    return text | {"number": request.number, "label": label, "recipe": as_dict(request.recipe) | {"guide": guide}}
