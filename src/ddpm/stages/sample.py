"""DVC stage `sample`: images for the evaluation, a grid to look at, the reverse process as an animation."""

import time
from dataclasses import asdict, replace
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
    from ddpm.compute import hardware
    from ddpm.data.reading.dataset import read_facts
    from ddpm.files import write_json
    from ddpm.generation import generate, pictures
    from ddpm.measuring.record import recipe_in
    from ddpm.tracking.run_json import attach

    facts = read_facts(args.prepared)
    device = stage.device
    model, recipe = model_file.load(args.model, device), recipe_in(params.sample, params.runtime.precision)
    precision = hardware.choose_precision(recipe.precision, device, facts.size)
    if recipe.guide is not None:
        guide = _guide(Path(recipe.guide), args.guides, device)
        generate.require_guide(guide, model, called=recipe.guide)
        model, recipe = replace(model, guide=guide), replace(recipe, guide=guide.sha256)
    settings = recipe.told() | {"seed": params.sample.seed}
    n = min(facts.train, 10_000) if params.sample.images == "auto" else params.sample.images
    labels = generate.balanced_labels(n, len(facts.classes), params.sample.seed) if facts.classes else None

    began = time.monotonic()
    images = generate.generate_together(
        model,
        n=n,
        condition=labels,
        batch=params.runtime.sample_batch,
        device=device,
        precision=precision,
        progress=params.runtime.progress,
        **settings,
    )
    if images is None:  # rank 0 has them all
        return
    speed = n / (time.monotonic() - began)
    args.images.mkdir(parents=True, exist_ok=True)
    np.save(args.images / "images.npy", images.numpy())
    if labels is not None:
        np.save(args.images / "labels.npy", labels.numpy())
    said = {"n": n, "seed": params.sample.seed} | asdict(recipe)
    write_json(args.images / "sample.json", said)
    write_json(args.report, said)

    pictures.grid_by_class(images, labels, params.sample.grid).save(args.grid)
    pictures.animate(model, args.animation, device=device, precision=precision, settings=settings)
    tracker = attach(args.run)
    for path in (args.grid, args.animation):
        tracker.artifact(path, "samples")
    tracker.log({"sampling_images_per_second": speed}, images_seen=model.lineage["params"]["train"]["images"])
    tracker.finish()


def _guide(file: Path, guides: Path, device: "torch.device") -> "Model":
    """The guide, from the folder whose files DVC compares by content."""
    from ddpm import model_file

    if guides.resolve() not in file.resolve().parents:
        raise UserError(
            f"sample.guide is {file}, expected a file in {guides}, where DVC sees that it changes; copy it there"
        )
    return model_file.load(file, device)


if __name__ == "__main__":
    options = ("prepared", "model", "run", "guides", "images", "grid", "animation", "report")
    execute(main, *options, in_workers=True)
