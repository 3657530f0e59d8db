"""DVC stage `sample`: generate the images for the evaluation, a grid, and an animation of the reverse process."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.errors import UserError
from ddpm.stages.stage import Stage, execute

if TYPE_CHECKING:
    import torch

    from ddpm.model_file import Model


def main(stage: Stage) -> None:
    args, params = stage.paths, stage.params

    import numpy as np

    from ddpm import model_file
    from ddpm.data.reading.dataset import read_facts
    from ddpm.generation import generate, pictures
    from ddpm.generation.batch import require_guide
    from ddpm.generation.recipe import Sampling, recipe_in
    from ddpm.tracking.run_json import attach

    facts = read_facts(args.prepared)
    device = stage.device
    model, recipe = model_file.load(args.model, device), recipe_in(params.sample, params.runtime.precision)
    if recipe.guide is not None:
        guide = _guide(Path(recipe.guide), args.guides, device)
        require_guide(guide, model, called=recipe.guide)
        model, recipe = replace(model, guide=guide), replace(recipe, guide=guide.sha256)
    seed = params.sample.seed
    n = min(facts.train, 10_000) if params.sample.images == "auto" else params.sample.images
    labels = generate.balanced_labels(n, len(facts.classes), seed) if facts.classes else None

    began = time.monotonic()
    images = generate.generate_together(
        model,
        recipe,
        n=n,
        seed=seed,
        condition=labels,
        batch=params.runtime.sample_batch,
        progress=params.runtime.progress,
    )
    if images is None:  # only rank 0 has the images
        return
    speed = n / (time.monotonic() - began)
    args.images.mkdir(parents=True, exist_ok=True)
    np.save(args.images / "images.npy", images.numpy())
    if labels is not None:
        np.save(args.images / "labels.npy", labels.numpy())
    for file in (args.images / "sample.json", args.report):
        Sampling(n=n, seed=seed, recipe=recipe).write(file)

    pictures.grid_by_class(images, labels, params.sample.grid).save(args.grid)
    pictures.animate(model, recipe, args.animation, seed=seed)
    tracker = attach(args.run)
    for path in (args.grid, args.animation):
        tracker.artifact(path, "samples")
    tracker.log({"sampling_images_per_second": speed}, images_seen=model.lineage["params"]["train"]["images"])
    tracker.finish()


def _guide(file: Path, guides: Path, device: "torch.device") -> "Model":
    """Return the guide. Raises UserError if it is outside `guides`, the folder that DVC compares by content."""
    from ddpm import model_file

    if guides.resolve() not in file.resolve().parents:
        raise UserError(
            f"sample.guide is {file}, expected a file in {guides}, where DVC notices changes; copy it there"
        )
    return model_file.load(file, device)


if __name__ == "__main__":
    options = ("prepared", "model", "run", "guides", "images", "grid", "animation", "report")
    execute(main, *options, in_workers=True)
