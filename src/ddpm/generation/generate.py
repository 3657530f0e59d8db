"""Images from a model: image k of seed s is the same image, whatever the batch, the order or the number."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm.compute.processes import assembled, dealt, leads, processes, rank
from ddpm.errors import UserError
from ddpm.generation.batch import Batch
from ddpm.generation.recipe import Recipe
from ddpm.images import to_uint8
from ddpm.model_file import Model
from ddpm.sampling.drawing import drawn
from ddpm.sampling.samplers import Step
from ddpm.seeding import seed_of


def sampling_steps(batch: Batch) -> Iterator[Step]:
    """The reverse process of the images, step by step.

    Raises UserError for a learned variance of a model that has none, and a guide that does not fit the model.
    """
    recipe, objective = batch.recipe, batch.model.spec.objective
    if recipe.sampler == "ddpm" and recipe.ddpm.variance == "learned" and not objective.learned_variance:
        raise UserError(
            "ddpm.variance is learned, but this model was trained without a variance; "
            "set sample.ddpm.variance to small or large"
        )
    return drawn(recipe, batch.denoise(), batch.model.schedule, batch.noise())


@torch.inference_mode()
def generate(
    model: Model,
    recipe: Recipe,
    *,
    n: int,
    seed: int,
    condition: Tensor | None,
    batch: int,
    progress: bool = False,
    first: int = 0,
) -> Tensor:
    """Images first..first+n-1 of the seed, on the device of the model: uint8 [n,C,H,W] on the CPU.

    `condition` has n rows, or is None. `batch` images are generated at a time, which changes no bit of an image on a
    CPU (`networks.kernels.conv`), and no more than its rounding on a GPU. Raises UserError as `sampling_steps` does.
    """
    from tqdm import tqdm

    images = []
    with tqdm(total=n, desc="sampling", unit="image", disable=not progress) as bar:
        for start in range(0, n, batch):
            stop = min(start + batch, n)
            part = Batch(
                model=model,
                recipe=recipe,
                seed=seed,
                indices=range(first + start, first + stop),
                condition=None if condition is None else condition[start:stop],
            )
            *_, last = sampling_steps(part)
            images.append(to_uint8(last.x_t).cpu())
            bar.update(stop - start)
    return torch.cat(images)


def generate_together(
    model: Model, recipe: Recipe, *, n: int, seed: int, condition: Tensor | None, batch: int, progress: bool = False
) -> Tensor | None:
    """`generate` by all processes of the stage, to which the batches are dealt in turn; all must call it.

    The images are those of one process: uint8 [n,C,H,W] on rank 0, None on the others.
    """
    own = {}
    for owner, rows in dealt(n, batch if processes() > 1 else n):
        if owner == rank():
            own[rows.start] = generate(
                model,
                recipe,
                n=rows.stop - rows.start,
                first=rows.start,
                seed=seed,
                condition=None if condition is None else condition[rows],
                batch=batch,
                progress=progress and leads(),
            )
    return assembled(own, n=n, batch=batch, everywhere=False)


def balanced_labels(n: int, classes: int, seed: int) -> Tensor:
    """int64 [n]: every class as often as every other (to within one), in a seeded order."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed_of("labels", seed)))
    return torch.arange(n)[order] % classes
