"""The model as MLflow serves it. MLflow copies this file into the logged model and runs it there (models from code).

A request is {"number": 4, "label": 3, "seed": 1, "steps": 20, "guidance": 1.5}, every field optional
(request.py has bounds and defaults). Its answer is {"images": [base64 of a PNG, …], "labels": [class name, …],
"seed": …, "sampler": …, "steps": …, "eta": …, "guidance": …}: what is needed to have the same images again.

With a picture in hand: {"task": "inpaint", "image": base64 of a PNG, "mask": base64 of a PNG} and the other tasks
of picture_request.py, whose answer is {"images": […], "task": …, "seed": …, …}.
"""

import base64
import io
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from torch import Tensor

from ddpm import model_file
from ddpm.errors import UserError
from ddpm.integrations import picture_request
from ddpm.integrations import request as asked
from ddpm.integrations.picture_request import PictureRequest
from ddpm.model_file import Model
from ddpm.runtime import choose_device


class DiffusionModel(PythonModel):
    """Requests in, images out."""

    def load_context(self, context: PythonModelContext) -> None:
        self.model = model_file.load(context.artifacts["model"], choose_device("auto"))

    # The hints are MLflow's signature: a body other than {"inputs": [{…}, …]} is answered with 400.
    def predict(  # type: ignore[override]
        self, model_input: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """One answer for each request; all are checked before the first is drawn."""
        requests: list[asked.Request | PictureRequest] = []
        for place, fields in enumerate(model_input):
            try:
                requests.append(_completed(fields, self.model))
            except UserError as error:
                raise MlflowException.invalid_parameter_value(f"inputs[{place}]: {error}") from None
        total = sum(request.number for request in requests)
        if total > asked.MAX_IMAGES:
            raise MlflowException.invalid_parameter_value(
                f"{total} images asked for in one call, expected at most {asked.MAX_IMAGES} over all its inputs"
            )
        return [self._answer(request) for request in requests]

    def _answer(self, request: asked.Request | PictureRequest) -> dict[str, Any]:
        if isinstance(request, PictureRequest):
            images, said = picture_request.draw(self.model, request), picture_request.described(request, self.model)
        else:
            images, said = asked.draw(self.model, request), asked.described(request, self.model)
        return {"images": [_png(image) for image in images]} | said


def _completed(fields: dict[str, Any], model: Model) -> asked.Request | PictureRequest:
    """Without a task, or with `sample`, images of the model's own; else of the given picture."""
    if fields.get("task", "sample") == "sample":
        return asked.complete({name: value for name, value in fields.items() if name != "task"}, model)
    return picture_request.complete(fields, model)


def _png(image: Tensor) -> str:
    """uint8 [C,H,W] -> base64 of a PNG file."""
    file = io.BytesIO()
    asked.as_picture(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


set_model(DiffusionModel())
