"""Answers to requests, within limits of work and time; used by the model in MLflow and by `ddpm serve`."""

import base64
import io
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ddpm.errors import UserError
from ddpm.generation.recipe import recipe_of
from ddpm.images import NotFiniteError
from ddpm.model_file import Model
from ddpm.serving import picture_request, sample_request
from ddpm.serving.fields import MAX_IMAGES
from ddpm.serving.picture_request import PictureRequest
from ddpm.serving.reverse_process import filmed
from ddpm.serving.sample_request import SampleRequest

INVALID, TOO_MUCH, GIVEN_UP, FAILED, TIME_UP = 400, 429, 499, 500, 504
"""HTTP status codes of refusals; 499 is never sent, because the client has disconnected."""
_LONGEST_SENTENCE = 400
"""Characters of a refusal; a longer one repeats the client's input, so its middle is removed."""


class RefusedError(UserError):
    """A call is refused. The sentence is sent to the client and contains no paths of this machine."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(shortened(sentence))
        self.status = status


@dataclass(frozen=True)
class Bounds:
    """The limits of served work, from section `serve` of params.yaml. Work is network evaluations times pixels."""

    max_work: int
    """Work of one call."""
    max_work_together: int
    """Work of all running calls; a new call gets at most half of what is free, so that a small one always fits."""
    max_seconds: float
    """Time of one call, from its arrival."""
    max_body_bytes: int
    """Size of the body of one call to `ddpm serve`."""


class Call:
    """A running call. Its work ends at the first network evaluation after its time limit or a disconnection."""

    def __init__(self, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._end = time.monotonic() + max_seconds
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """End the work of this call. Can be called from any thread."""
        self._given_up.set()

    def require_time(self) -> None:
        """Raise RefusedError if the call must end."""
        if self._given_up.is_set():
            raise RefusedError(GIVEN_UP, "the client has disconnected, so the work of its call was stopped")
        if time.monotonic() > self._end:
            raise RefusedError(
                TIME_UP, f"the images took longer than {self._max_seconds:g} seconds; request fewer images or steps"
            )


_running_call: ContextVar[Call | None] = ContextVar("_running_call", default=None)


class Budget:
    """The work of all running calls, within the bounds. Several models can share one."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._lock, self._work = threading.Lock(), 0

    @property
    def work(self) -> int:
        """The work of all running calls."""
        return self._work

    @contextmanager
    def admitted(self, needed: int) -> Iterator[None]:
        """Count the work as running inside the block. Raises RefusedError if it exceeds a limit."""
        most = self.bounds.max_work
        if needed > most:
            raise RefusedError(
                TOO_MUCH,
                f"the call needs {needed} network evaluations times pixels, expected at most {most}; "
                "request fewer images, steps or resamplings",
            )
        with self._lock:
            free = self.bounds.max_work_together - self._work
            if 2 * needed > free:
                raise RefusedError(
                    TOO_MUCH,
                    f"the call needs {needed} network evaluations times pixels, and at most {free // 2} are free "
                    f"beside the {self._work} of running calls; try again later or request less",
                )
            self._work += needed
        try:
            yield
        finally:
            with self._lock:
                self._work -= needed


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
        self.drew: Callable[[Tensor, Tensor | None, float | None], None] | None = None
        """Told the images, uint8 [N,C,H,W], and their labels of every request for new images by the model's own recipe
        and a seed that was drawn here: who chooses seeds could choose what is measured. With the seconds that it took;
        None if other calls were running beside it."""
        model.network.register_forward_pre_hook(_require_time)

    def answers(self, inputs: Any, call: Call | None = None) -> list[dict[str, Any]]:
        """Return one answer for each of the inputs, a list of objects; all are checked before images are generated.

        An answer has `images` (PNG files in base64, without metadata), the fields that generate the same images again,
        and `model`, which generates them. Raises RefusedError.
        """
        if call is None and self._budget is not None:
            call = Call(self._budget.bounds.max_seconds)
        token = _running_call.set(call)
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
            _running_call.reset(token)

    def warm_up(self) -> None:
        """Draw one image, beside the budget. Raises what drawing raises."""
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
            _require_time()  # decoding pictures takes time
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
                began = time.monotonic()
                images = sample_request.draw(model, request)
                seconds = time.monotonic() - began
                if self.drew is not None and has_own_seed and request.recipe == recipe_of(model):
                    is_alone = self._budget is None or self._budget.work == needed
                    self.drew(images, sample_request.labels_of(request, model), seconds if is_alone else None)
        return {"images": [_png(image) for image in images]} | more | fields | {"model": self.identity}


def work(request: SampleRequest | PictureRequest, model: Model) -> int:
    """Return the largest work of the request: network evaluations times pixels (height times width).

    Guidance counts at every noise level, because counting the levels of an interval exactly would itself be work.
    """
    steps = picture_request.evaluations(request) if isinstance(request, PictureRequest) else request.recipe.steps
    networks = 1 if request.recipe.guidance == 1 else 2
    return request.number * steps * networks * model.spec.size**2


def shortened(sentence: str) -> str:
    """Return the sentence on one line, with its middle removed if it is longer than _LONGEST_SENTENCE."""
    if len(sentence) > _LONGEST_SENTENCE:
        sentence = f"{sentence[: _LONGEST_SENTENCE // 2]} … {sentence[3 - _LONGEST_SENTENCE // 2 :]}"
    return " ".join(sentence.split())


def _complete(fields: Mapping[str, Any], model: Model) -> SampleRequest | PictureRequest:
    """Complete a request: without a task or with the task `sample` for new images, else with an input picture."""
    if fields.get("task", "sample") == "sample":
        return sample_request.complete({name: value for name, value in fields.items() if name != "task"}, model)
    return picture_request.complete(fields, model)


def _require_time(*_: Any) -> None:
    call = _running_call.get()
    if call is not None:
        call.require_time()


def _png(image: Tensor) -> str:
    """Return an image, uint8 [C,H,W], as a PNG file in base64."""
    file = io.BytesIO()
    sample_request.as_picture(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
