"""DVC stage `sample`: generate the images for the evaluation, a grid, and an animation of the reverse process."""

import tempfile
import time
from pathlib import Path
from typing import Any

from ddpm.stages.stage import Stage, execute


def main(stage: Stage) -> None:
    from ddpm import model_file
    from ddpm.compute.processes import leads, together
    from ddpm.data.reading.dataset import read_facts
    from ddpm.generation import generate, pictures
    from ddpm.generation.cascade import FILE, with_base
    from ddpm.generation.grid import grid_by_class
    from ddpm.generation.guides import with_guide
    from ddpm.generation.image_set import Sampling, write_image_set
    from ddpm.generation.recipe import recipe_in
    from ddpm.reporting.run_sections import samples
    from ddpm.text.conditions import of_texts
    from ddpm.tracking.run_description import describe
    from ddpm.tracking.run_json import attach

    paths, settings, runtime = stage.paths, stage.params.sample, stage.params.runtime
    facts, model = read_facts(paths.prepared), model_file.load(paths.model, stage.device)
    model, recipe = with_guide(model, recipe_in(settings, runtime.precision, model.spec.method), paths.guides)
    if (named := settings.base) is not None:
        if leads():
            _keep_base(stage, named)
        together()
        model, recipe = with_base(model, recipe, paths.images / FILE)
    n = min(facts.train, 10_000) if settings.images == "auto" else settings.images
    captions = stage.split("test").captions if model.asked.text is not None else None
    texts = generate.evaluation_captions(model.asked, n=n, seed=settings.seed, captions=captions)
    classes = len(model.asked.classes)
    labels = generate.balanced_labels(n, classes, settings.seed) if classes else None
    condition: Any = labels if texts is None else of_texts(model.asked, texts)
    given = None
    if model.asked.image is not None:
        held_out, noise = stage.split("test").images, recipe.picture_noise
        condition = given = generate.evaluation_pictures(
            model.spec, n=n, seed=settings.seed, images=held_out, noise=noise
        )
    began = time.monotonic()
    images = generate.generate_together(
        model,
        recipe,
        n=n,
        seed=settings.seed,
        condition=condition,
        batch=runtime.sample_batch,
        progress=runtime.progress,
    )
    if images is None:  # only rank 0 has the images
        return
    speed = n / (time.monotonic() - began)
    sampling = Sampling(n=n, seed=settings.seed, recipe=recipe)
    write_image_set(paths.images, images, labels, sampling, texts)
    sampling.write(paths.report)
    shown = grid_by_class(images, labels, settings.grid)
    if given is not None:
        shown = pictures.beside(given, images, settings.grid)
    shown.save(paths.grid)
    pictures.animate(model, recipe, paths.animation, seed=settings.seed, condition=given)
    tracker = attach(paths.run, stage.measuring())
    for path in (paths.grid, paths.animation):
        tracker.artifact(path, "samples")
    describe(tracker, Samples=samples(tracker.id))
    tracker.log({"sampling_images_per_second": speed}, images_seen=model.lineage["params"]["train"]["images"])
    tracker.finish()


def _keep_base(stage: Stage, named: str) -> None:
    """Copy the model that sample.base names into the folder of the images; a registered version is downloaded."""
    from ddpm.generation.cascade import REGISTERED, keep_base, require_base_inside
    from ddpm.tracking.named_version import download

    images, key = stage.paths.images, stage.params.signing.verify_key
    if not named.startswith(REGISTERED):
        keep_base(require_base_inside(named, stage.paths.guides), images)
        return
    with tempfile.TemporaryDirectory() as folder:
        keep_base(download(named, Path(folder), verify_key=None if key is None else Path(key)), images)


if __name__ == "__main__":
    options = ("prepared", "model", "run", "guides", "images", "grid", "animation", "report")
    execute(main, *options, in_workers=True)
