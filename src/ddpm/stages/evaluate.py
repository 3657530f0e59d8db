"""DVC stage `evaluate`: FID, IS, KID, precision, recall and memorization, each with its protocol, beside the floor."""

import argparse
from pathlib import Path

from ddpm import config
from ddpm.workspace import run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("prepared", "images", "extractor", "run", "metrics", "neighbours"):
        parser.add_argument(f"--{option}", type=Path, required=True)
    args = parser.parse_args()
    params = config.load()

    import numpy as np

    from ddpm import runtime
    from ddpm.data.dataset import read_split
    from ddpm.evaluation import protocol, report
    from ddpm.files import write_json
    from ddpm.integrations import fidelity, mlflow_store

    device = runtime.choose_device(params.runtime.device)
    train, test = (read_split(args.prepared, name).images for name in ("train", "test"))
    generated = np.load(args.images / "images.npy", mmap_mode="r")
    record, by_pixels, by_features = fidelity.measure_images(
        generated,
        train,
        test,
        extractor=fidelity.load_extractor(args.extractor, device),
        settings=params.evaluate,
        sampling=protocol.read_sampling(args.images, n=len(generated)),
        device=device,
        progress=params.runtime.progress,
    )
    report.draw_neighbours(
        args.neighbours, generated=generated, train=train, by_pixels=by_pixels, by_features=by_features
    )
    write_json(args.metrics, record.to_json())

    tracker = mlflow_store.attach(args.run)
    tracker.log(record.numbers(), images_seen=0)  # one value each, of the finished model: no curve
    for path in (args.metrics, args.neighbours):
        tracker.artifact(path, "evaluation")
    tracker.finish()


if __name__ == "__main__":
    run_stage(main)
