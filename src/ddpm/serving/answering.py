"""Answers to requests, within limits of work and time; used by the model in MLflow and by `ddpm serve`."""

import base64
import io
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ddpm.errors import UserError
from ddpm.generation.generate import generate
from ddpm.generation.recipe import neutral, recipe_of
from ddpm.images import NotFiniteError
from ddpm.model_file import Model
from ddpm.model_spec import Spec
from ddpm.serving import picture_request, sample_request
from ddpm.serving.batching import Batching
from ddpm.serving.calls import FAILED, INVALID, Budget, Call, RefusedError, require_time, running_call
from ddpm.serving.drawn import Drawn
from ddpm.serving.fields import MAX_IMAGES
from ddpm.serving.picture_request import PictureRequest
from ddpm.serving.reverse_process import filmed
from ddpm.serving.sample_request import SampleRequest


@dataclass(frozen=True)
class Identity:
    """The registered version of a model; None where there is none, or where it is not known, as in MLflow's server."""

    name: str | None = None
    version: str | None = None


class Answering:
    """A model that answers calls, also from several threads at the same time."""

    def __init__(self, model: Model, budget: Budget | None, identity: Identity | None = None) -> None:
        """Without a budget, as in a notebook, calls have no limits."""
        self.model, self._budget = model, budget
        self.identity = vars(identity or Identity()) | {"sha256": model.sha256}
        """The fields name, version and sha256 (of the model file), which every answer has under `model`."""
        self.listeners: list[Callable[[Drawn], None]] = []
        """Told of every request for new images by the model's own recipe and a seed that was drawn here: who chooses
        seeds could choose what is measured."""
        if budget is None:
            self._batching = Batching(model)
        else:
            self._batching = Batching(model, lambda request: budget.held(work(request, model)))
        for each in filter(None, (model, model.base)):
            each.network.register_forward_pre_hook(require_time)

    def answers(self, inputs: Any, call: Call | None = None) -> list[dict[str, Any]]:
        """Return one answer for each of the inputs, a list of objects; all are checked before images are generated.

        An answer has `images` (PNG files in base64, without metadata), the fields that generate the same images again,
        and `model`, which generates them. Raises RefusedError.
        """
        if call is None and self._budget is not None:
            call = Call(self._budget.bounds.max_seconds)
        token = running_call.set(call)
        try:
            requests = self._completed(inputs)
            needed = sum(work(request, self.model) for request in requests)
            with nullcontext() if self._budget is None else self._budget.admitted(needed):
                return [
                    self._answer(request, needed=needed, has_own_seed=fields.get("seed") is None)
                    for request, fields in zip(requests, inputs, strict=True)
                ]
        except RefusedError:
            raise
        except NotFiniteError as error:
            raise RefusedError(FAILED, str(error)) from None
        except Exception:  # the client must not see internal errors, whose messages may contain paths
            logging.getLogger(__name__).exception("a call could not be answered")
            raise RefusedError(FAILED, "the images could not be generated; see the server's log") from None
        finally:
            running_call.reset(token)

    def warm_up(self) -> None:
        """Draw one image, beside the budget. Raises what drawing raises."""
        if self.model.asked.image is not None:
            recipe = recipe_of(self.model) or neutral(sampler="ddim", steps=1)
            generate(self.model, recipe, n=1, seed=0, condition=None, batch=1)
            return
        fields: dict[str, Any] = {"number": 1, "seed": 0}
        if recipe_of(self.model) is None:
            fields |= {"sampler": "ddim", "steps": 1}
        sample_request.draw(self.model, sample_request.complete(fields, self.model))

    def _completed(self, inputs: Any) -> list[SampleRequest | PictureRequest]:
        if not isinstance(inputs, Sequence) or isinstance(inputs, str):
            raise RefusedError(INVALID, f"inputs is a {type(inputs).__name__}, expected a list of objects")
        if len(inputs) > MAX_IMAGES:
            raise RefusedError(INVALID, f"inputs has {len(inputs)} entries, expected at most {MAX_IMAGES}")
        requests = []
        for place, fields in enumerate(inputs):
            require_time()  # decoding pictures takes time
            if not isinstance(fields, Mapping):
                raise RefusedError(INVALID, f"inputs[{place}] is a {type(fields).__name__}, expected an object")
            try:
                requests.append(_complete(fields, self.model))
            except UserError as error:
                raise RefusedError(INVALID, f"inputs[{place}]: {error}") from None
        total = sum(request.number for request in requests)
        if total > MAX_IMAGES:
            raise RefusedError(
                INVALID,
                f"the call requests {total} images, expected at most {MAX_IMAGES} in all its inputs; request fewer",
            )
        return requests

    def _answer(self, request: SampleRequest | PictureRequest, *, needed: int, has_own_seed: bool) -> dict[str, Any]:
        model, more = self.model, {}
        if isinstance(request, PictureRequest):
            images, fields = picture_request.draw(model, request), picture_request.described(request, model)
        else:
            fields = sample_request.described(request, model) | sample_request.again(request, model)
            if request.frames:
                images, strips = filmed(model, request)
                more = {"frames": [_png(strip) for strip in strips]}
            else:
                images, seconds = self._drawn(request, needed)
                if has_own_seed and request.recipe == recipe_of(model):
                    again = {name: value for name, value in fields.items() if name in sample_request.ASKED}
                    for listen in self.listeners:
                        listen(Drawn(again, images, sample_request.labels_of(request, model), seconds))
        return {"images": [_png(image) for image in images]} | more | fields | {"model": self.identity}

    def _drawn(self, request: SampleRequest, needed: int) -> tuple[Tensor, float | None]:
        """Return the images, and the seconds that they took; None if another call ran beside, also for a part of it."""
        budget, began = self._budget, time.monotonic()
        others = 0 if budget is None else budget.work - needed
        calls = 0 if budget is None else budget.calls
        images = self._batching.draw(request)
        is_alone = others == 0 and (budget is None or budget.calls == calls)
        return images, time.monotonic() - began if is_alone else None


def work(request: SampleRequest | PictureRequest, model: Model) -> int:
    """Return the largest work of the request: network evaluations times pixels (height times width).

    Of a model of latents it is evaluations times positions of latents, and the pixels that are decoded; of a cascade
    also the work of its base.

    Guidance counts at every noise level, because counting the levels of an interval exactly would itself be work.
    """
    steps = picture_request.evaluations(request) if isinstance(request, PictureRequest) else request.recipe.steps
    of_one = _work_of_one(model.spec, steps, request.recipe.guidance)
    if model.base is not None and isinstance(request, SampleRequest):
        own = recipe_of(model.base)
        of_one += 0 if own is None else _work_of_one(model.base.spec, own.steps, own.guidance)
    return request.number * of_one


def _work_of_one(spec: Spec, steps: int, guidance: float) -> int:
    networks = 1 if guidance == 1 else 2
    return steps * networks * spec.noise_size**2 + (spec.size**2 if spec.draws_latents else 0)


def _complete(fields: Mapping[str, Any], model: Model) -> SampleRequest | PictureRequest:
    """Complete a request: without a task or with the task `sample` for new images, else with an input picture."""
    if fields.get("task", "sample") == "sample":
        return sample_request.complete({name: value for name, value in fields.items() if name != "task"}, model)
    return picture_request.complete(fields, model)


def _png(image: Tensor) -> str:
    """Return an image, uint8 [C,H,W], as a PNG file in base64."""
    file = io.BytesIO()
    sample_request.as_picture(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
