"""What a consumer may ask of a model, in one place for HTTP, Python and the command line: fields, and their bounds.

The defaults are the model's recipe, by which it was measured. A request that names another sampler, or other steps,
eta or guidance, changes that alone: the rest of the recipe (time grid, thresholds, intervals, guide) holds for all
samplers, or is read by none but the recipe's own.
"""

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddpm.compute.hardware import choose_precision
from ddpm.errors import UserError
from ddpm.generation.generate import generate
from ddpm.generation.recipe import carried
from ddpm.model_file import Model
from ddpm.sampling.catalogue import SAMPLERS
from ddpm.sampling.settings import Recipe

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGES = 64
"""Images in one call over HTTP."""
MAX_GUIDANCE = 20.0
MAX_SEED = 2**63 - 1
BATCH = 64
_OF_RECIPE = ("sampler", "steps", "eta", "guidance")
"""What a request may say instead of the model's recipe."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A question with every blank filled."""

    number: int
    label: int | None
    """Index of a class; None: the classes in turn."""
    seed: int
    sampler: str
    steps: int
    eta: float
    guidance: float


def complete(fields: Mapping[str, Any], model: Model, *, max_number: int = MAX_IMAGES) -> Request:
    """The request, with the model's recipe where a field is absent or null.

    number 1..max_number (default 1); label: a class's index or name (default: the classes in turn); seed
    0..2^63-1 (default: a fresh one); steps 1..T; guidance 0..20; sampler a key of SAMPLERS; eta 0..1.
    Raises UserError, one sentence, for an unknown field, a value out of bounds, and a model without a recipe where
    sampler and steps are not given.
    """
    known = ("number", "label", "seed", *_OF_RECIPE)
    given = given_fields(fields, known)
    classes, T, recipe = model.spec.classes, model.spec.schedule.T, carried(model)
    if recipe is None:
        if not {"sampler", "steps"} <= given.keys():
            raise UserError("this model's file does not say how its images are drawn; give sampler and steps")
        recipe = Recipe(sampler=given["sampler"], steps=given["steps"])
    sampler = given.get("sampler", recipe.sampler)
    if not isinstance(sampler, str) or sampler not in SAMPLERS:
        raise UserError(f"sampler is {sampler!r}, expected one of {', '.join(SAMPLERS)}")
    if given.get("guidance", 1) != 1 and recipe.guide is None:
        real("guidance", given["guidance"], 0.0, MAX_GUIDANCE)
        require_both_predictions(f"guidance is {given['guidance']}, expected 1", "it has nothing to guide with", model)

    eta = real("eta", given.get("eta", recipe.eta), 0.0, 1.0)
    readers = [name for name, row in SAMPLERS.items() if "eta" in row.told(recipe, eta)]
    if eta not in (0.0, recipe.eta) and sampler not in readers:
        wanted = " or ".join(readers)
        raise UserError(f"eta is {eta:g}, which {sampler} does not read; leave it out, or make sampler {wanted}")

    def asked(name: str, bounded: Callable[..., Any], low: float, high: float) -> Any:
        return bounded(name, given[name], low, high) if name in given else getattr(recipe, name)

    steps = asked("steps", whole, 1, T)
    if sampler == "langevin" and steps <= recipe.langevin_steps:
        raise UserError(
            f"steps is {steps}, but langevin takes {recipe.langevin_steps} at every noise level and one at the end; "
            f"ask for more than {recipe.langevin_steps}"
        )
    return Request(
        number=whole("number", given.get("number", 1), 1, max_number),
        label=label_index(given.get("label"), classes),
        seed=whole("seed", given.get("seed", secrets.randbelow(2**32)), 0, MAX_SEED),
        sampler=sampler,
        steps=steps,
        eta=eta,
        guidance=asked("guidance", real, 0.0, MAX_GUIDANCE),
    )


def labels_of(request: Request, model: Model) -> Tensor | None:
    """int64 [number], or None for a model without classes. Image k's label does not depend on the number."""
    classes = len(model.spec.classes)
    if not classes:
        return None
    if request.label is not None:
        return torch.full((request.number,), request.label)
    return torch.arange(request.number) % classes


def draw(model: Model, request: Request, *, progress: bool = False) -> Tensor:
    """uint8 [number,C,H,W]; the same request gives the same images on the same kind of device."""
    device = next(model.network.parameters()).device
    asked = {name: getattr(request, name) for name in _OF_RECIPE}
    recipe = carried(model)
    recipe = Recipe(**asked) if recipe is None else replace(recipe, **asked)
    return generate(
        model,
        n=request.number,
        seed=request.seed,
        condition=labels_of(request, model),
        batch=BATCH,
        device=device,
        precision=choose_precision(recipe.precision, device, model.spec.size),
        progress=progress,
        **recipe.told(),
    )


def as_picture(image: Tensor) -> "Image":
    """uint8 [C,H,W] -> grey or RGB."""
    from PIL.Image import fromarray

    return fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())


def described(request: Request, model: Model) -> dict[str, Any]:
    """The request as plain values, with the class names of its images instead of the label."""
    labels = labels_of(request, model)
    names = None if labels is None else [model.spec.classes[k] for k in labels.tolist()]
    return {"labels": names} | {k: v for k, v in asdict(request).items() if k not in ("label", "number")}


def given_fields(fields: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """The fields that are not null. Raises UserError for one that is not known."""
    for name in fields:
        if name not in known:
            raise UserError(f"{name!r} is no known field, expected some of {', '.join(known)}")
    return {name: value for name, value in fields.items() if value is not None}


def require_both_predictions(what: str, therefore: str, model: Model) -> None:
    """Raises UserError, `what`: …, so `therefore`, unless the model predicts with a label and without one."""
    if not (model.spec.classes and model.spec.unconditional):
        lacking = "label dropout" if model.spec.classes else "classes"
        raise UserError(f"{what}: this model was trained without {lacking}, so {therefore}")


def whole(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{name} is {value!r}, expected a whole number from {low} to {high}")
    return value


def real(name: str, value: Any, low: float, high: float) -> float:
    real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not real or not low <= value <= high:
        raise UserError(f"{name} is {value!r}, expected a number from {low:g} to {high:g}")
    return float(value)


def label_index(label: Any, classes: Sequence[str]) -> int | None:
    if label is None:
        return None
    if not classes:
        raise UserError(f"label is {label!r}, but this model has no classes; leave it out")
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(classes):
        return label
    shown = ", ".join(classes[:20]) + (", …" if len(classes) > 20 else "")
    raise UserError(f"label is {label!r}, expected an index from 0 to {len(classes) - 1} or a class of: {shown}")
