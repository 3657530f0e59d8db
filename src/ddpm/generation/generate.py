"""Generate images: image k of seed s is the same image for every batch size, order and number of images."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ddpm.compute.processes import assembled, dealt, leads, processes, rank
from ddpm.degrading.pictures import Picture, Pictures
from ddpm.errors import UserError
from ddpm.generation.batch import Batch
from ddpm.generation.recipe import Recipe, recipe_of
from ddpm.images import Images
from ddpm.model_file import Model
from ddpm.model_spec import Spec
from ddpm.sampling.drawing import drawn
from ddpm.sampling.samplers import Step, last_of
from ddpm.seeding import seed_of
from ddpm.text import conditions
from ddpm.text.conditions import Captions


class Rows(Protocol):
    """Conditions, one row per image: a tensor, or what makes a part of it when it is read."""

    def __getitem__(self, places: slice, /) -> Tensor: ...


def sampling_steps(batch: Batch) -> Iterator[Step]:
    """Run the reverse process of the images, step by step.

    Raise UserError if the recipe needs a learned variance that the model lacks, or if the guide does not fit the model.
    """
    batch = enlarging(batch)
    recipe, objective = batch.recipe, batch.model.spec.objective
    if batch.model.spec.method != "diffusion":
        x_0 = batch.drawn(batch.noise()())
        return iter([Step(0.0, x_0, x_0)])
    if recipe.sampler == "ddpm" and recipe.ddpm.variance == "learned" and not objective.learned_variance:
        raise UserError(
            "ddpm.variance is learned, but this model was trained without a variance; "
            "set sample.ddpm.variance to small or large"
        )
    return drawn(recipe, batch.denoise(), batch.model.schedule, batch.noise())


def enlarging(batch: Batch) -> Batch:
    """Return the batch of a cascade's own model, for which its base has drawn the pictures; any other batch itself.

    The base draws by its own recipe, from streams of noise of its own.
    """
    base = batch.model.base
    if base is None:
        return batch
    recipe, image = recipe_of(base), batch.model.spec.image
    assert recipe is not None, "a base has a recipe"
    assert image is not None, "the header was checked"
    small = replace(batch, model=base, recipe=recipe, stream="base")
    drawn = small.levels(last_of(sampling_steps(small)).x_t)
    rows = [
        Picture("super-resolution", pixels).condition(image, noise=batch.recipe.picture_noise, place=place)
        for pixels, place in zip(drawn, batch.places, strict=True)
    ]
    return replace(batch, model=batch.model.alone, condition=torch.cat(rows))


@torch.inference_mode()
def generate(
    model: Model,
    recipe: Recipe,
    *,
    n: int,
    seed: int,
    condition: Rows | None,
    batch: int,
    progress: bool = False,
    first: int = 0,
) -> Tensor:
    """Generate images first..first+n-1 of the seed on the model's device; return uint8 [n,C,H,W] on the CPU.

    `condition` has n rows, or is None. `batch` images are generated at a time. On a CPU this changes no bit of an image
    (`networks.kernels.conv`), on a GPU only its rounding. Raise UserError as `sampling_steps` does.
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
            images.append(part.levels(last_of(sampling_steps(part)).x_t))
            bar.update(stop - start)
    return torch.cat(images)


def generate_together(
    model: Model, recipe: Recipe, *, n: int, seed: int, condition: Rows | None, batch: int, progress: bool = False
) -> Tensor | None:
    """Generate images with all processes of the stage, which take batches in turn; all must call it.

    The images equal those of one process. Return uint8 [n,C,H,W] on rank 0, None on the others.
    """
    own = {}
    if processes() == 1:  # a condition that is made when it is read stays a part of it at a time
        return generate(model, recipe, n=n, seed=seed, condition=condition, batch=batch, progress=progress)
    for owner, rows in dealt(n, batch):
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


def evaluation_conditions(
    spec: Spec,
    *,
    n: int,
    seed: int,
    captions: Callable[[], Captions] | None = None,
    images: Images | None = None,
    noise: float = 0.0,
) -> Rows | None:
    """Return the condition with which the n images of an evaluation are drawn: [n, ...]; None for a model without one.

    Labels are balanced; captions are `evaluation_captions`; pictures are `evaluation_pictures` of these held-out
    `images`.
    """
    if spec.image is not None:
        return None if images is None else evaluation_pictures(spec, n=n, seed=seed, images=images, noise=noise)
    if spec.classes:
        return balanced_labels(n, len(spec.classes), seed)
    texts = evaluation_captions(spec, n=n, seed=seed, captions=captions)
    return None if texts is None else conditions.of_texts(spec, texts)


def evaluation_captions(
    spec: Spec, *, n: int, seed: int, captions: Callable[[], Captions] | None = None
) -> list[str | None] | None:
    """Return the captions of n images that are measured; None for a model that knows none.

    They are those of held-out images, which `captions` returns, in a seeded order, again and again if they are fewer
    than n; without them the model's examples in turn.
    """
    if spec.text is None:
        return None
    known = [] if captions is None else [each for each in captions() if each is not None]
    if not known:
        return [conditions.example(spec, k) for k in range(n)]
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed_of("captions", seed))).tolist()
    return [known[order[k % len(known)]] for k in range(n)]


def evaluation_pictures(spec: Spec, *, n: int, seed: int, images: Images, noise: float) -> Pictures:
    """Return n degraded pictures of held-out images in a seeded order, again and again if these are fewer.

    `noise` is added to those that have none by themselves, in grey levels.
    """
    assert spec.image is not None
    return Pictures(spec.image, images, n=n, seed=seed, noise=noise)


def balanced_labels(n: int, classes: int, seed: int) -> Tensor:
    """Return labels, int64 [n], in a seeded order; the counts of classes differ by at most one."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed_of("labels", seed)))
    return torch.arange(n)[order] % classes
