"""The model as MLflow serves it. MLflow copies this file into the logged model and runs it there (models from code).

A request is {"number": 4, "label": 3, "seed": 1, "steps": 20, "guidance": 1.5}; every field is optional
(sample_request.py has limits and defaults). Its answer is {"images": [base64 of a PNG, …], "labels": [class name, …],
"seed": …, "sampler": …, "steps": …, "eta": …, "guidance": …, "number": …, "label": …, "recipe": {…}, "model": {…}},
which is enough to generate the same images again: `recipe` has all settings for sampling, `model` the sha256 of the
model file, and from `ddpm serve` the registered name and version.

With "frames": 20 the answer also has `frames`: for each image a PNG of up to 20 states of the reverse process, from top
to bottom.

A request with a picture is {"task": "inpaint", "image": base64 of a PNG, "mask": base64 of a PNG}, or another task of
picture_request.py. Its answer is {"images": […], "task": …, "seed": …, …}.

The limits of answering.py are stored with the model. MLflow's server itself limits neither the size of a body nor the
length of the error about a body that it cannot parse, and does not report that a client has disconnected; `ddpm serve`
does all of this.
"""

from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos import databricks_pb2 as codes
from mlflow.pyfunc import PythonModel, PythonModelContext

from ddpm.compute.hardware import choose_device
from ddpm.generation.recipe import load_model
from ddpm.serving.answering import Answering
from ddpm.serving.calls import FAILED, INVALID, TIME_UP, TOO_MUCH, Bounds, Budget, RefusedError

_CODES = {
    INVALID: codes.INVALID_PARAMETER_VALUE,
    TOO_MUCH: codes.REQUEST_LIMIT_EXCEEDED,
    FAILED: codes.INTERNAL_ERROR,
    TIME_UP: codes.DEADLINE_EXCEEDED,
}


class Refusal(MlflowException):
    """An error whose message cannot be changed, because MLflow's server would put the whole call in front of it."""

    @property
    def message(self) -> str:
        return self._sentence

    @message.setter
    def message(self, message: str) -> None:
        if not hasattr(self, "_sentence"):
            self._sentence = message


class DiffusionModel(PythonModel):
    """Generates the images that requests ask for."""

    def load_context(self, context: PythonModelContext) -> None:
        model = load_model(context.artifacts["model"], choose_device("auto"))
        self.answering = Answering(model, Budget(Bounds(**context.model_config)) if context.model_config else None)

    # The type hint is MLflow's signature: a body other than {"inputs": […]} gets the answer 400. The items of the list
    # are checked here, because the messages are clearer and shorter than MLflow's.
    def predict(  # type: ignore[override]
        self, model_input: list[Any]
    ) -> list[dict[str, Any]]:
        """Return one answer for each request; all requests are checked before the first image is generated."""
        try:
            return self.answering.answers(model_input)
        except RefusedError as refused:
            raise Refusal(str(refused), _CODES[refused.status]) from None


set_model(DiffusionModel())
