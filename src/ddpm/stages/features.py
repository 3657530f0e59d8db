"""DVC stage `features`: the feature extractor that the figures speak of."""

import argparse
from pathlib import Path

from ddpm.compute.launch import with_workers
from ddpm.compute.processes import leads
from ddpm.params import load as load_params
from ddpm.pipeline.workspace import run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("prepared", "extractor", "report"):
        parser.add_argument(f"--{option}", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()

    from ddpm.compute import hardware
    from ddpm.data.reading.dataset import read_facts, read_split
    from ddpm.files import write_json
    from ddpm.measuring.features import extractor, extractor_training

    facts, settings = read_facts(args.prepared), params.features
    counts = {"training": facts.train, "held-out": facts.test}
    kind = extractor_training.choose_kind(settings, classes=len(facts.classes))
    accuracy: float | None
    if kind == "inception":
        extractor.require_enough_images(extractor.INCEPTION_DIM, counts)
        if leads():
            extractor.record_inception(args.extractor, Path(str(settings.inception_weights)))
        accuracy, dim, sha256 = None, extractor.INCEPTION_DIM, extractor.INCEPTION_SHA256
    else:
        extractor.require_enough_images(settings.dim, counts)
        hardware.set_determinism(params.runtime.deterministic)
        trained = extractor_training.train_extractor(
            read_split(args.prepared, "train", params.runtime),
            read_split(args.prepared, "test", params.runtime),
            kind=kind,
            classes=len(facts.classes),
            settings=settings,
            device=hardware.choose_device(params.runtime.device),
            progress=params.runtime.progress,
            together=True,
        )
        if leads():
            trained.save(args.extractor)
        accuracy, dim, sha256 = trained.accuracy, trained.dim, trained.sha256
    if leads():
        write_json(args.report, {"kind": kind, "accuracy": accuracy, "dim": dim, "sha256": sha256})


if __name__ == "__main__":
    run_stage(with_workers(main, lambda: load_params().runtime))
