"""DVC stage `evaluate`: what the model and its images are worth, each figure with its protocol."""

import argparse
from pathlib import Path

from ddpm.compute.launch import with_workers
from ddpm.compute.processes import leads
from ddpm.params import load as load_params
from ddpm.pipeline.workspace import run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("prepared", "images", "extractor", "model", "run", "metrics", "neighbours", "likelihood", "terms"):
        parser.add_argument(f"--{option}", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()

    import numpy as np

    from ddpm import model_file
    from ddpm.compute import hardware
    from ddpm.data.reading.dataset import read_split
    from ddpm.files import write_json
    from ddpm.measuring import augmentation, bits_per_dim, fidelity
    from ddpm.measuring.neighbours_picture import draw_neighbours
    from ddpm.measuring.record import read_sampling
    from ddpm.tracking import mlflow_store

    hardware.set_determinism(params.runtime.deterministic)
    device = hardware.choose_device(params.runtime.device)
    train = read_split(args.prepared, "train", params.runtime)
    held_out = read_split(args.prepared, "test", params.runtime)
    generated = np.load(args.images / "images.npy", mmap_mode="r")
    measure = fidelity.load_extractor(args.extractor, device)
    sets = (generated, train.images, held_out.images)
    described = fidelity.describe_sets(
        *sets,
        extractor=measure,
        settings=params.evaluate,
        device=device,
        progress=params.runtime.progress,
        together=True,
    )
    if not leads():
        return
    record, copies = fidelity.measure_images(
        *sets,
        extractor=measure,
        settings=params.evaluate,
        sampling=read_sampling(args.images, n=len(generated)),
        device=device,
        progress=params.runtime.progress,
        described=described,
    )
    draw_neighbours(args.neighbours, generated=generated, train=train.images, copies=copies)
    taught = augmentation.measure(
        train,
        args.images,
        held_out,
        wanted=params.evaluate.augmentation,
        settings=params.features,
        device=device,
        progress=params.runtime.progress,
    )
    write_json(args.metrics, record.to_json() | augmentation.figures(taught))
    likelihood = bits_per_dim.measure(
        model_file.load(args.model, device),
        held_out.images,
        held_out.labels,
        n=params.evaluate.bits_per_dim,
        batch=params.runtime.sample_batch,
        progress=params.runtime.progress,
    )
    write_json(args.likelihood, likelihood.figures())
    likelihood.write_terms(args.terms)

    tracker = mlflow_store.attach(args.run)
    numbers = record.numbers() | likelihood.numbers() | augmentation.numbers(taught)
    tracker.log(numbers, images_seen=0)  # of the finished model: no curve
    for path in (args.metrics, args.neighbours, args.likelihood, args.terms):
        tracker.artifact(path, "evaluation")
    tracker.finish()


if __name__ == "__main__":
    run_stage(with_workers(main, lambda: load_params().runtime))
