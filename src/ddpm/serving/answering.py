"""Requests in, images out, within bounds on their work and time: what the model in MLflow and `ddpm serve` share."""

import base64
import io
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ddpm.errors import UserError
from ddpm.model_file import Model
from ddpm.serving import picture_request, sample_request
from ddpm.serving.fields import MAX_IMAGES
from ddpm.serving.picture_request import PictureRequest
from ddpm.serving.sample_request import SampleRequest

INVALID, TOO_MUCH, GIVEN_UP, FAILED, TIME_UP = 400, 429, 499, 500, 504
"""HTTP's numbers of a refusal; 499 is nobody's answer, since its client has gone."""
_LONGEST_SENTENCE = 400
"""Characters of a refusal; a longer one repeats what was sent, and is cut in its middle."""


class RefusedError(UserError):
    """A call is not answered; the sentence is for its client, without paths of this machine."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(shortened(sentence))
        self.status = status


@dataclass(frozen=True)
class Bounds:
    """Of served work, as the section `serve` of params.yaml sets them. Work: network evaluations times pixels."""

    max_work: int
    """Of one call."""
    max_work_together: int
    """Of all calls under way; a new one gets at most half of what is free of it, so that a small one always fits."""
    max_seconds: float
    """Of one call, from its arrival."""
    max_body_bytes: int
    """Of one call to `ddpm serve`."""


class Call:
    """One call under way. Its work ends at the next network evaluation after its time is up or its client has gone."""

    def __init__(self, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._end = time.monotonic() + max_seconds
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """From any thread."""
        self._given_up.set()

    def require_time(self) -> None:
        """Raises RefusedError where the call is to end."""
        if self._given_up.is_set():
            raise RefusedError(GIVEN_UP, "the client has gone, and the work for it has ended")
        if time.monotonic() > self._end:
            raise RefusedError(
                TIME_UP, f"the images took longer than {self._max_seconds:g} seconds; ask for fewer images or steps"
            )


_under_way: ContextVar[Call | None] = ContextVar("_under_way", default=None)


class Answering:
    """A model that answers; calls may come from several threads at a time."""

    def __init__(self, model: Model, bounds: Bounds | None) -> None:
        """Without bounds, as in a notebook of one's own, a call may take what it takes."""
        self.model, self._bounds = model, bounds
        self._lock, self._work = threading.Lock(), 0
        model.network.register_forward_pre_hook(_require_time)

    def answers(self, inputs: Any, call: Call | None = None) -> list[dict[str, Any]]:
        """One answer for each of the inputs, a list of objects; all are checked before the first is drawn.

        An answer holds `images`, files in base64, and what is needed to have the same again. Raises RefusedError.
        """
        if call is None and self._bounds is not None:
            call = Call(self._bounds.max_seconds)
        token = _under_way.set(call)
        try:
            requests = self._completed(inputs)
            with self._admitted(sum(work(request, self.model) for request in requests)):
                return [self._answer(request) for request in requests]
        except RefusedError:
            raise
        except Exception:  # what is wrong here is no business of a client's, nor are the paths in its words
            logging.getLogger(__name__).exception("a call could not be answered")
            raise RefusedError(FAILED, "the images could not be made; the server's log says why") from None
        finally:
            _under_way.reset(token)

    def _completed(self, inputs: Any) -> list[SampleRequest | PictureRequest]:
        if not isinstance(inputs, Sequence) or isinstance(inputs, str):
            raise RefusedError(INVALID, f"inputs is a {type(inputs).__name__}, expected a list of objects")
        if len(inputs) > MAX_IMAGES:
            raise RefusedError(INVALID, f"inputs has {len(inputs)} entries, expected at most {MAX_IMAGES}")
        requests = []
        for place, fields in enumerate(inputs):
            _require_time()  # pictures take some to be read
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
                f"{total} images asked for in one call, expected at most {MAX_IMAGES} over all its inputs",
            )
        return requests

    @contextmanager
    def _admitted(self, needed: int) -> Iterator[None]:
        """Inside, the work counts as under way."""
        if self._bounds is None:
            yield
            return
        most = self._bounds.max_work
        if needed > most:
            raise RefusedError(
                TOO_MUCH,
                f"the call needs {needed} network evaluations times pixels, expected at most {most}; "
                "ask for fewer images, steps or resamplings",
            )
        with self._lock:
            free = self._bounds.max_work_together - self._work
            if 2 * needed > free:
                raise RefusedError(
                    TOO_MUCH,
                    f"the call needs {needed} network evaluations times pixels, and at most {free // 2} are free "
                    f"beside the {self._work} under way; ask again later, or for less",
                )
            self._work += needed
        try:
            yield
        finally:
            with self._lock:
                self._work -= needed

    def _answer(self, request: SampleRequest | PictureRequest) -> dict[str, Any]:
        if isinstance(request, PictureRequest):
            images, said = picture_request.draw(self.model, request), picture_request.described(request, self.model)
        else:
            images, said = sample_request.draw(self.model, request), sample_request.described(request, self.model)
        return {"images": [_png(image) for image in images]} | said


def work(request: SampleRequest | PictureRequest, model: Model) -> int:
    """Network evaluations times pixels (high times wide) that the request takes at most."""
    steps = picture_request.evaluations(request) if isinstance(request, PictureRequest) else request.recipe.steps
    networks = 1 if request.recipe.guidance == 1 else 2
    return request.number * steps * networks * model.spec.size**2


def shortened(sentence: str) -> str:
    """At most _LONGEST_SENTENCE characters, on one line."""
    if len(sentence) > _LONGEST_SENTENCE:
        sentence = f"{sentence[: _LONGEST_SENTENCE // 2]} … {sentence[3 - _LONGEST_SENTENCE // 2 :]}"
    return " ".join(sentence.split())


def _complete(fields: Mapping[str, Any], model: Model) -> SampleRequest | PictureRequest:
    """Without a task, or with `sample`, images of the model's own; else of the given picture."""
    if fields.get("task", "sample") == "sample":
        return sample_request.complete({name: value for name, value in fields.items() if name != "task"}, model)
    return picture_request.complete(fields, model)


def _require_time(*_: Any) -> None:
    call = _under_way.get()
    if call is not None:
        call.require_time()


def _png(image: Tensor) -> str:
    """uint8 [C,H,W] -> base64 of a PNG file."""
    file = io.BytesIO()
    sample_request.as_picture(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
