"""The model as MLflow serves it. MLflow copies this file into the logged model and runs it there (models from code).

A request is {"number": 4, "label": 3, "seed": 1, "steps": 20, "guidance": 1.5}, every field optional
(request.py has bounds and defaults). Its answer is {"images": [base64 of a PNG, …], "labels": [class name, …],
"seed": …, "sampler": …, "steps": …, "eta": …, "guidance": …}: what is needed to have the same images again.

With a picture in hand: {"task": "inpaint", "image": base64 of a PNG, "mask": base64 of a PNG} and the other tasks
of picture_request.py, whose answer is {"images": […], "task": …, "seed": …, …}.

The bounds of answering.py travel with the model. MLflow's server itself bounds neither a body nor the text of an error
about one that it cannot parse, and does not say when a client has gone; `ddpm serve` does.
"""

from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos import databricks_pb2 as codes
from mlflow.pyfunc import PythonModel, PythonModelContext

from ddpm.compute.hardware import choose_device
from ddpm.generation.recipe import load_model
from ddpm.serving.answering import FAILED, INVALID, TIME_UP, TOO_MUCH, Answering, Bounds, RefusedError

_CODES = {
    INVALID: codes.INVALID_PARAMETER_VALUE,
    TOO_MUCH: codes.REQUEST_LIMIT_EXCEEDED,
    FAILED: codes.INTERNAL_ERROR,
    TIME_UP: codes.DEADLINE_EXCEEDED,
}


class Refusal(MlflowException):
    """A sentence that stays as it is: MLflow's server would repeat the whole call in front of it."""

    @property
    def message(self) -> str:
        return self._sentence

    @message.setter
    def message(self, message: str) -> None:
        if not hasattr(self, "_sentence"):
            self._sentence = message


class DiffusionModel(PythonModel):
    """Requests in, images out."""

    def load_context(self, context: PythonModelContext) -> None:
        model = load_model(context.artifacts["model"], choose_device("auto"))
        self.answering = Answering(model, Bounds(**context.model_config) if context.model_config else None)

    # The hint is MLflow's signature: a body other than {"inputs": […]} is answered with 400. What is in the list is
    # looked at here, in better and shorter words.
    def predict(  # type: ignore[override]
        self, model_input: list[Any]
    ) -> list[dict[str, Any]]:
        """One answer for each request; all are checked before the first is drawn."""
        try:
            return self.answering.answers(model_input)
        except RefusedError as refused:
            raise Refusal(str(refused), _CODES[refused.status]) from None


set_model(DiffusionModel())
