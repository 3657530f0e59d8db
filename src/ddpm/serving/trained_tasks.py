"""The tasks of a model that is given pictures: it undoes the degradations that it was trained for, and nothing else."""

import torch

from ddpm.degrading.pictures import Picture
from ddpm.degrading.settings import ImageCondition
from ddpm.errors import UserError
from ddpm.generation.batch import Batch
from ddpm.generation.generate import sampling_steps
from ddpm.sampling.samplers import last_of


def what_it_can_do(settings: ImageCondition) -> str:
    """Return the tasks as words, such as "super-resolution by 2 and inpaint"."""
    least, most = settings.noise
    more = {"super-resolution": f" by {settings.factor}", "denoise": f" of noise from {least:g} to {most:g}"}
    *others, last = [f"{kind}{more.get(kind, '')}" for kind in settings.degradations]
    return f"{', '.join(others)} and {last}" if others else last


def require_task(settings: ImageCondition, task: str) -> None:
    """Raise UserError unless the model was trained for this task."""
    if task not in settings.degradations:
        raise UserError(f"task is {task}, but this model was trained for {what_it_can_do(settings)}; choose from these")


def require_size(settings: ImageCondition, *, size: int, height: int) -> None:
    """Raise UserError unless a picture of this height is smaller by the trained factor."""
    if height * settings.factor != size:
        wanted = size // settings.factor
        raise UserError(
            f"image is {height}x{height} pixels, but this model was trained for super-resolution by {settings.factor}; "
            f"send {wanted}x{wanted}"
        )


def require_noise(settings: ImageCondition, noise: float) -> None:
    """Raise UserError for noise that the model was not trained for, in grey levels."""
    least, most = settings.noise
    if not least <= noise <= most:
        raise UserError(f"noise is {noise:g}, expected {least:g} to {most:g}, for which this model was trained")


@torch.inference_mode()
def draw(batch: Batch, picture: Picture) -> torch.Tensor:
    """Return images of which the picture may be what is left: uint8 [N,C,H,W].

    `batch` is without its condition. Image k of a seed is the same as in the evaluation.
    """
    settings = batch.model.spec.image
    assert settings is not None
    noise = batch.recipe.picture_noise
    rows = [picture.condition(settings, noise=noise, place=(batch.seed, k)) for k in batch.indices]
    given = Batch(
        model=batch.model, recipe=batch.recipe, seed=batch.seed, indices=batch.indices, condition=torch.cat(rows)
    )
    return given.levels(last_of(sampling_steps(given)).x_t)
