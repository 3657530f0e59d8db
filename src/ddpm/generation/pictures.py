"""Pictures for people: samples of a model in training, and animations of the reverse process."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddpm.compute.hardware import Precision
from ddpm.degrading.pictures import Pictures
from ddpm.generation.batch import Batch
from ddpm.generation.generate import Rows, generate, sampling_steps
from ddpm.generation.grid import grid
from ddpm.generation.recipe import DIRECTLY, Recipe, neutral
from ddpm.images import to_uint8
from ddpm.sampling.editing import slerp
from ddpm.text import conditions

if TYPE_CHECKING:
    from PIL.Image import Image

    from ddpm.model_file import Model

FRAMES = 50
"""Largest number of frames of an animation."""


def beside(pictures: Pictures, images: Tensor, n: int) -> "Image":
    """Arrange about n images in groups of three: the degraded picture, what the model drew of it, and the original."""
    channels = images.shape[1]
    shown = range(min(len(images), max(1, n // 3)))
    given = to_uint8(pictures[: len(shown)][:, :channels])
    rows = [torch.stack([given[k], images[k], pictures.original(k)]) for k in shown]
    return grid(torch.cat(rows), columns=3 * max(1, round((n / 9) ** 0.5)))


@torch.inference_mode()
def animate(model: "Model", recipe: Recipe, path: Path, *, seed: int, condition: Rows | None = None) -> None:
    """Write the reverse process of 20 images as a GIF that pauses at its end; of a VAE or GAN a walk between latents.

    With the recipe and seed of an evaluation the last ones are its first images, except for their labels. `condition`
    has the rows of these images; without it they have all labels or captions in turn.
    """
    rows = _rows(model, 20) if condition is None else condition[slice(20)]
    batch = Batch(model=model, recipe=recipe, seed=seed, indices=range(20), condition=rows)
    if model.spec.method == "diffusion":
        steps = [batch.levels(step.x_t) for step in sampling_steps(batch)]
    else:
        steps = [to_uint8(x).cpu() for x in walk(batch, FRAMES)]
    stride = -(-len(steps) // FRAMES)
    frames = [grid(images, columns=10) for images in steps[::-stride][::-1]]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[80] * (len(frames) - 1) + [2500], loop=0)


def walk(batch: Batch, frames: int) -> Iterator[Tensor]:
    """Yield images [N,C,H,W] of latents on the arc from other latents of the same streams to those of the batch."""
    noise = batch.noise()
    end, start = noise(), noise()
    for weight in torch.linspace(0, 1, frames):
        yield batch.drawn(slerp(start, end, weight.expand(len(end)).to(end.device)))


def preview(model: "Model", precision: Precision, given: Pictures | None = None) -> "Image":
    """Return a preview of a model in training: 100 images, those of diffusion by DDIM in 20 steps.

    A model that is `given` pictures draws about a third as many, see `beside`.
    """
    if model.spec.method == "diffusion":
        recipe = replace(neutral(sampler="ddim", steps=int(min(20, model.schedule.T))), precision=precision)
    else:
        recipe = replace(DIRECTLY, precision=precision)
    if given is not None:
        return beside(given, generate(model, recipe, n=33, seed=0, condition=given, batch=33), 100)
    return grid(generate(model, recipe, n=100, seed=0, condition=_rows(model, 100), batch=100), columns=10)


def _rows(model: "Model", n: int) -> Tensor | None:
    """Return conditions for ten columns: one class or caption per row if they are few, else all in turn."""
    spec = model.asked
    kinds = len(spec.classes) or len(spec.text.examples if spec.text is not None else ())
    return conditions.in_turn(spec, [k // 10 for k in range(n)] if kinds <= n // 10 else range(n))
