"""DVC stage `sample`: images for the evaluation, a grid to look at, the reverse process as an animation."""

import argparse
import time
from dataclasses import fields
from pathlib import Path

from ddpm import config
from ddpm.launch import with_workers
from ddpm.workspace import run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("prepared", "model", "run", "images", "grid", "animation", "report"):
        parser.add_argument(f"--{option}", type=Path, required=True)
    args = parser.parse_args()
    params = config.load()

    import numpy as np

    from ddpm import model_file, runtime
    from ddpm.data.dataset import read_facts
    from ddpm.evaluation import generate, pictures
    from ddpm.evaluation.protocol import Sampling
    from ddpm.files import write_json
    from ddpm.integrations import mlflow_store

    facts = read_facts(args.prepared)
    runtime.set_determinism(params.runtime.deterministic)
    device = runtime.choose_device(params.runtime.device)
    precision = runtime.choose_precision(params.runtime.precision, device, facts.size)
    model = model_file.load(args.model, device)
    settings = {field.name: getattr(params.sample, field.name) for field in fields(Sampling)}
    n = min(facts.train, 10_000) if params.sample.images == "auto" else params.sample.images
    labels = generate.balanced_labels(n, len(facts.classes), params.sample.seed) if facts.classes else None

    began = time.monotonic()
    images = generate.generate_together(
        model,
        n=n,
        labels=labels,
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
    write_json(args.images / "sample.json", {"n": n} | settings)
    write_json(args.report, {"n": n} | settings)

    pictures.grid_by_class(images, labels, params.sample.grid).save(args.grid)
    pictures.animate(model, args.animation, device=device, precision=precision, settings=settings)
    tracker = mlflow_store.attach(args.run)
    for path in (args.grid, args.animation):
        tracker.artifact(path, "samples")
    tracker.log({"sampling_images_per_second": speed}, images_seen=model.lineage["params"]["train"]["images"])
    tracker.finish()


if __name__ == "__main__":
    run_stage(with_workers(main))
