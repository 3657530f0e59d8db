"""A request with an input picture (inpainting, restoration, editing, interpolation): fields, limits, defaults.

A picture is a file in base64 over HTTP, and a path on the command line. It is decoded as the prepared images are
(data/preparing/picture_file.py), must have the model's size, and is converted to the model's channels. A mask is white
where the model paints.
"""

import base64
import io
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm.data.preparing.picture_file import Reading, RejectedError, Seen, opened
from ddpm.data.preparing.pixels import whole_picture
from ddpm.degrading import operators
from ddpm.degrading.pictures import Picture
from ddpm.degrading.settings import ImageCondition
from ddpm.errors import UserError
from ddpm.generation import picture_tasks
from ddpm.generation.batch import Batch
from ddpm.generation.recipe import Recipe, neutral, recipe_of
from ddpm.model_file import Model
from ddpm.model_spec import require_diffusion, require_pixels
from ddpm.serving import trained_tasks
from ddpm.serving.fields import (
    MAX_GUIDANCE,
    MAX_IMAGES,
    MAX_SEED,
    condition_field,
    given_fields,
    label_index,
    real,
    require_both_predictions,
    text_of,
    whole,
)
from ddpm.serving.sample_request import BATCH
from ddpm.text.conditions import of_texts

MAX_BYTES = 2**23
"""Largest size of a picture file."""
MAX_PIXELS = 2**24
DECODING_BYTES = 64
"""Memory per pixel of the model's size; no format needs more (data/preparing/footprint.py)."""
TILE_BYTES = 2**22
"""Memory for tiles, which may be larger than their picture."""
ITERATIONS = 6
"""Iterations of the inversion per step; fewer do not reproduce held-out digits to the last grey level."""
SMALLEST_GAIN = 0.02
"""Frequencies that a blur weakens to less than this share are lost in the rounding to 256 grey levels."""

# The fields of each task besides COMMON and SECOND, as (low, high, default). A field is a whole number if its default
# is one. A field with the default None is required.
TASKS: dict[str, dict[str, tuple[float, float, float | None]]] = {
    "inpaint": {"jump": (1, 100, 5), "resamplings": (1, 50, 10)},
    "super-resolution": {},
    "colourise": {},
    "deblur": {"blur": (0.1, 100.0, None)},
    "denoise": {"noise": (0.5, 1000.0, None)},
    "edit": {"strength": (0.01, 1.0, 0.6)},
    "interpolate": {},
}
OF_PIXELS = ("super-resolution", "colourise", "deblur", "denoise")
"""Tasks that a model of latents cannot do, because what is known of the image is known of its pixels."""
SECOND = {"inpaint": "mask", "interpolate": "other"}
STEPS = {"inpaint": 50, "edit": 50}
"""Default steps; 25 for the other tasks."""
COMMON = ("task", "image", "number", "label", "text", "seed", "steps", "guidance")


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureRequest:
    """A complete request: every field has a value."""

    task: str
    image: Tensor
    """uint8 [C,h,w]; smaller than the model's only for super-resolution, grey for colourisation."""
    second: Tensor | None
    """The mask (bool [1,h,w], true where to paint) or the other image."""
    number: int
    label: int | None
    """Index of a class; None: the model predicts without a label."""
    text: str | None
    """A caption; None: the model predicts without one."""
    seed: int
    recipe: Recipe
    """The settings of sampling; a task may use its own sampler with them."""
    settings: dict[str, float]
    """The fields of the task."""
    picture: Picture | None = None
    """The picture as the condition of a model that was trained for the task; None: the task needs no such training."""

    @property
    def is_conditioned(self) -> bool:
        """Whether the model predicts with a class, a caption or a picture."""
        return self.label is not None or self.text is not None or self.picture is not None


def complete(fields: Mapping[str, Any], model: Model, *, max_number: int = MAX_IMAGES) -> PictureRequest:
    """Check the fields and complete them; a field that is absent or null gets its default.

    task: a key of TASKS; image, and mask or other: pictures; number: 1..max_number (default 1; interpolate: at least 2,
    including both ends, default 8); label: index or name of a class (default: none); text: a caption (default: none);
    seed, steps, guidance: as in `sample_request`, but steps have the default of the task.
    Raises UserError, one sentence, for an unknown field or a value outside its limits, and for a task or a picture that
    a model whose condition is a picture was not trained for. Such a model draws by its own sampler and steps.
    """
    model = model.alone
    task = fields.get("task")
    if not isinstance(task, str) or task not in TASKS:
        raise UserError(f"task is {task!r}, expected sample or one of {', '.join(TASKS)}")
    require_diffusion(model.spec, f"task {task}")
    if task in OF_PIXELS:
        require_pixels(model.spec, f"task {task}")
    second, own_fields, known = SECOND.get(task), TASKS[task], model.spec.image
    if known is not None:
        trained_tasks.require_task(known, task)
        own_fields = {name: bounds for name, bounds in own_fields.items() if name == "noise"}
    given = given_fields(fields, (*COMMON, *([second] if second else []), *own_fields))
    channels, size, T = model.spec.channels, model.spec.size, model.spec.schedule.T
    if task == "colourise" and channels != 3:
        raise UserError("task is colourise, but this model's images are grey; use a model of colour images")
    label, text = label_index(given.get("label"), model), text_of(given.get("text"), model)
    is_conditioned = label is not None or text is not None or known is not None
    if not is_conditioned and model.spec.is_conditioned:
        lacking = condition_field(model)
        require_both_predictions(f"{lacking} is missing", f"it needs a {lacking}; set one", model)
    own = recipe_of(model)
    guidance = _guidance(given, model, own, is_conditioned=is_conditioned)
    usual = own.steps if own is not None and known is not None else STEPS.get(task, 25)
    steps = whole("steps", given.get("steps", min(usual, T)), 1, T)
    image = read_picture(
        "image",
        given.get("image"),
        model,
        channels=1 if task == "colourise" else channels,
        smaller=task == "super-resolution",
    )
    other = None
    if second is not None:
        other = read_picture(second, given.get(second), model, channels=1 if second == "mask" else channels)
        other = other >= 128 if second == "mask" else other
    settings = {
        name: _bounded(name, given.get(name, default), low, min(high, size) if name == "blur" else high, default)
        for name, (low, high, default) in own_fields.items()
    }
    recipe = replace(own or neutral(sampler="ddim", steps=steps), steps=steps, guidance=guidance)
    picture = None
    if known is not None:
        picture = _for_trained_task(known, task, image, other, settings, size=size)
        _require_fits(recipe, model)
    else:
        recipe = replace(recipe, sampler="ddim")
    fewest, usual = (2, 8) if task == "interpolate" else (1, 1)
    return PictureRequest(
        task=task,
        image=image,
        second=other,
        number=whole("number", given.get("number", min(usual, max_number)), fewest, max_number),
        label=label,
        text=text,
        seed=whole("seed", given.get("seed", secrets.randbelow(2**32)), 0, MAX_SEED),
        recipe=recipe,
        settings=settings,
        picture=picture,
    )


def _for_trained_task(
    known: ImageCondition, task: str, image: Tensor, hole: Tensor | None, settings: dict[str, float], *, size: int
) -> Picture:
    """Return the picture of a task that the model was trained for. Raises UserError if it was trained for others."""
    if task == "super-resolution":
        trained_tasks.require_size(known, size=size, height=image.shape[1])
    if task == "denoise":
        trained_tasks.require_noise(known, settings["noise"])
    if hole is not None and not bool(hole.any()):
        raise UserError("mask has no white pixel, expected white where the picture is to be painted; draw some")
    kind = next(each for each in known.degradations if each == task)
    return Picture(kind, image, hole=hole, noise=settings.get("noise", 0.0))


def _require_fits(recipe: Recipe, model: Model) -> None:
    try:
        recipe.require_fits(model.spec.schedule, called="")
    except ValueError as error:  # two settings exclude each other
        raise UserError(str(error)) from None


def _guidance(given: Mapping[str, Any], model: Model, recipe: Recipe | None, *, is_conditioned: bool) -> float:
    """Return the guidance of the request, else the recipe's if it can be used: with a condition or with a guide."""
    guided = recipe is not None and recipe.guide is not None
    if "guidance" not in given:
        return recipe.guidance if recipe is not None and (guided or is_conditioned) else 1.0
    guidance = real("guidance", given["guidance"], 0.0, MAX_GUIDANCE)
    if guidance != 1 and not guided:
        require_both_predictions(f"guidance is {guidance:g}, expected 1", "it has nothing to guide with", model)
        if not is_conditioned:
            known = condition_field(model)
            raise UserError(
                f"guidance is {guidance:g}, but the request has no {known}; set {known} or leave guidance out"
            )
    return guidance


def draw(model: Model, request: PictureRequest) -> Tensor:
    """Generate images, uint8 [number,C,H,W]; the same request gives the same images on the same kind of device."""
    parts, model = [], model.alone
    for start in range(0, request.number, BATCH):
        indices = range(start, min(start + BATCH, request.number))
        condition = None if request.label is None else torch.full((len(indices),), request.label)
        if request.text is not None:
            condition = of_texts(model.spec, [request.text] * len(indices))
        batch = Batch(model=model, recipe=request.recipe, seed=request.seed, indices=indices, condition=condition)
        parts.append(_drawn(batch, request))
    return torch.cat(parts)


def described(request: PictureRequest, model: Model) -> dict[str, Any]:
    """Return the fields as plain values, without pictures and number, and with the name of the class."""
    label = None if request.label is None else model.spec.classes[request.label]
    recipe = request.recipe
    common = {"task": request.task, "seed": request.seed, "steps": recipe.steps, "guidance": recipe.guidance}
    text = {} if model.spec.text is None else {"text": request.text}
    return common | {"label": label} | text | request.settings


def evaluations(request: PictureRequest) -> int:
    """Return the largest number of evaluations of the denoiser per image."""
    steps, settings = request.recipe.steps, request.settings
    if request.picture is not None:
        return steps
    if request.task == "inpaint":
        jump, resamplings = int(settings["jump"]), int(settings["resamplings"])
        return steps + jump * (resamplings - 1) * len(range(1, steps - jump + 1, jump))
    return (2 * ITERATIONS + 1) * steps if request.task == "interpolate" else steps


def network_calls(request: PictureRequest) -> int:
    """Return the largest number of calls of the network by `draw`, each for a batch of images."""
    is_guided = request.recipe.guidance not in (0, 1) and request.recipe.guide is None and request.is_conditioned
    return math.ceil(request.number / BATCH) * evaluations(request) * (2 if is_guided else 1)


def _drawn(batch: Batch, request: PictureRequest) -> Tensor:
    if request.picture is not None:
        return trained_tasks.draw(batch, request.picture)
    images = request.image[None].expand(len(batch.indices), -1, -1, -1)
    settings, steps = request.settings, request.recipe.steps
    if request.task == "inpaint":
        assert request.second is not None
        jump, resamplings = int(settings["jump"]), int(settings["resamplings"])
        return picture_tasks.inpaint(
            batch, images, ~request.second[None], steps=steps, jump=jump, resamplings=resamplings
        )
    if request.task == "interpolate":
        assert request.second is not None
        weight = torch.tensor(batch.indices) / (request.number - 1)
        return picture_tasks.interpolate(
            batch, images, request.second[None].expand_as(images), weight, steps=steps, iterations=ITERATIONS
        )
    if request.task == "edit":
        return picture_tasks.edit(batch, images, strength=settings["strength"], steps=steps)
    if request.task == "denoise":
        return picture_tasks.denoise(batch, images, std=settings["noise"], steps=steps)
    size = batch.model.spec.size
    operator = {
        "super-resolution": lambda: operators.average_pooling(size // request.image.shape[1]),
        "colourise": operators.grey,
        "deblur": lambda: operators.gaussian_blur(size, width=settings["blur"], smallest=SMALLEST_GAIN),
    }[request.task]()
    return picture_tasks.restore(batch, images, operator, steps=steps)


def read_picture(name: str, given: Any, model: Model, *, channels: int, smaller: bool = False) -> Tensor:
    """Return a picture, uint8 [channels,h,h], from a path or a file in base64, decoded as prepared images are.

    h is the model's size; with `smaller`, a proper divisor of it. A picture of another size is refused because of its
    header, before it is decoded. Raises UserError for a file that is not a picture.
    """
    content, seen = _content(name, given), Seen()
    # Several calls decode at the same time, so the limit of memory is what a picture of this size needs.
    most = 2 * MAX_BYTES + max(TILE_BYTES, DECODING_BYTES * model.spec.size**2)
    reading = Reading(max_pixels=MAX_PIXELS, max_bytes=most, white=None)
    try:
        with opened(io.BytesIO(content), reading, seen) as picture:
            _require_size(name, picture.width, picture.height, model, smaller=smaller)
            pixels = whole_picture(picture, channels, reading.white)
    except RejectedError as rejected:
        if seen.width:  # a wrong size is a clearer error than too much memory
            _require_size(name, seen.width, seen.height, model, smaller=smaller)
        raise UserError(f"{name} cannot be read as a picture ({rejected.reason}); send an 8-bit PNG file") from None
    flat = torch.frombuffer(bytearray(pixels.tobytes()), dtype=torch.uint8)
    return flat.view(pixels.height, pixels.width, channels).permute(2, 0, 1)


def _content(name: str, given: Any) -> bytes:
    """Return the bytes of the picture's file."""
    if given is None:
        raise UserError(f"{name} is missing; add a picture")
    if isinstance(given, Path):
        try:
            with given.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UserError(f"{name} is {given}, which cannot be read ({error.strerror}); correct the path") from None
        if len(content) > MAX_BYTES:
            raise UserError(f"{name} is {given}, expected a picture of at most {MAX_BYTES} bytes")
        return content
    if not isinstance(given, str):
        raise UserError(f"{name} is a {type(given).__name__}, expected a picture's file in base64")
    if len(given) > MAX_BYTES * 4 // 3 + 4:
        raise UserError(f"{name} has {len(given)} characters, expected a picture of at most {MAX_BYTES} bytes")
    try:
        return base64.b64decode(given, validate=True)
    except ValueError:  # for characters outside ASCII, too
        raise UserError(f"{name} is not valid base64; encode the bytes of a PNG file") from None


def _require_size(name: str, width: int, height: int, model: Model, *, smaller: bool) -> None:
    size = model.spec.size
    if smaller:
        if height != width or height >= size or size % height:
            factors = [k for k in range(2, size + 1) if size % k == 0]
            if model.spec.image is not None:
                factors = [model.spec.image.factor]  # the only one that the model was trained for
            parts = ", ".join(f"{size // k}x{size // k}" for k in factors)
            expected = parts if len(factors) == 1 else f"one of {parts}"
            raise UserError(f"{name} is {width}x{height} pixels, expected {expected} to become {size}x{size}")
    elif (height, width) != (size, size):
        raise UserError(f"{name} is {width}x{height} pixels, expected {size}x{size}, the size of the model's images")


def _bounded(name: str, value: Any, low: float, high: float, default: float | None) -> float:
    if value is None:
        raise UserError(f"{name} is missing; set it to a number from {low:g} to {high:g}")
    return whole(name, value, int(low), int(high)) if isinstance(default, int) else real(name, value, low, high)
