"""New images with states of their reverse process, for an animation."""

import torch
from torch import Tensor

from ddpm.generation.batch import Batch
from ddpm.generation.generate import sampling_steps
from ddpm.model_file import Model
from ddpm.serving.sample_request import SampleRequest, condition_of


@torch.inference_mode()
def filmed(model: Model, request: SampleRequest) -> tuple[Tensor, Tensor]:
    """Return the images of the request, uint8 [N,C,H,W], equal to `sample_request.draw`, and a strip for each.

    A strip is uint8 [C,frames*H,W]: up to `request.frames` states of one image, from top to bottom. The last is the
    image itself. States with values outside of the images' range are clipped.
    """
    batch = Batch(
        model=model,
        recipe=request.recipe,
        seed=request.seed,
        indices=range(request.number),
        condition=condition_of(request, model),
    )
    every = -(-request.recipe.steps // request.frames)
    states: list[Tensor] = []
    for k, step in enumerate(sampling_steps(batch)):
        if k % every == 0:
            states.append(batch.levels(step.x_t))
    last = batch.levels(step.x_t)
    if (len(states) - 1) * every != k:
        states = [*states[: request.frames - 1], last]
    return last, torch.cat(states, dim=2)
