"""DVC stage `train`: the diffusion model, tracked live; a killed training goes on where it was."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm import idle
from ddpm.compute.launch import with_workers
from ddpm.compute.processes import leads, together
from ddpm.params import load as load_params
from ddpm.pipeline.dvc_yaml import code_of_stage
from ddpm.pipeline.workspace import run_stage
from ddpm.settings import as_dict

if TYPE_CHECKING:
    from PIL.Image import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("prepared", "validation", "docs", "model", "run", "curves", "report", "state"):
        parser.add_argument(f"--{option}", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()

    from ddpm import model_file
    from ddpm.compute import hardware
    from ddpm.data.reading.dataset import read_facts, read_split
    from ddpm.files import write_json
    from ddpm.generation.pictures import preview
    from ddpm.tracker import NullTracker, finishing, flat
    from ddpm.tracking import mlflow_store
    from ddpm.training import checkpoint, finished, session

    facts, split = read_facts(args.prepared), read_split(args.prepared, "train", params.runtime)
    for sentence in idle.warned_of_size(params, facts.size) if leads() else []:
        print(f"warning: {sentence}")
    told = {name: as_dict(getattr(params, name)) for name in ("schedule", "objective", "network", "train")}
    spec = {"channels": facts.channels, "size": facts.size, "classes": list(facts.classes)}
    spec |= {name: told[name] for name in ("schedule", "objective", "network")}
    hardware.set_determinism(params.runtime.deterministic)
    device = hardware.choose_device(params.runtime.device)
    precision = hardware.choose_precision(params.runtime.precision, device, facts.size)

    if leads() and params.runtime.resume != "required":
        finished.clear_recorded(args.state, is_known=mlflow_store.knows)
    together()
    training = session.begin(
        spec,
        split.images,
        split.labels,
        data_hash=facts.content_hash,
        code_hash=checkpoint.code_hash(*code_of_stage("train")),
        objective=params.objective,
        settings=params.train,
        runtime=params.runtime,
        device=device,
        precision=precision,
        state_folder=args.state,
    )

    def picture() -> "Image":
        average = model_file.Model(training.average(), spec, lineage={}, sha256="")
        return preview(average, device, precision)

    intervals = {name: getattr(params.tracking, name) for name in ("log_every_images", "grid_every_images")}
    if not leads():
        session.run(training, tracker=NullTracker(), picture=picture, **intervals)
        training.average()
        return
    run_name = f"{facts.name}-{training.fingerprint[:8]}"
    tracker = mlflow_store.start_run(
        experiment=params.tracking.experiment,
        name=run_name,
        facts=facts,
        prepared=args.prepared,
        run_id=training.extra.get("run_id"),
        kept=training.folder / finished.TRACKED,
    )
    with finishing(tracker):
        training.extra["run_id"] = tracker.run_id
        machine = hardware.kind_of_machine(device) | {"precision": precision, "parameters": training.parameters}
        tracker.params(flat(**told))
        tracker.tags({f"machine.{name}": str(value) for name, value in machine.items()})
        curves = session.run(training, tracker=tracker, picture=picture, **intervals)
        lineage = {"data_hash": facts.content_hash, "data": facts.name, "params": told, "machine": machine}
        lineage |= {"code_hash": training.code_hash, "mlflow_run": run_name}
        sha256 = model_file.save(args.model, network=training.average(), spec=spec, lineage=lineage)
        session.write_curves(args.curves, curves)
        write_json(args.report, session.summary(training, curves))
        tracker.settle()  # so that run.json names no run that lacks figures
        tracker.tags({mlflow_store.MADE: sha256})
        write_json(args.run, mlflow_store.run_record(tracker, model_sha256=sha256))
        for path, folder in ((args.docs, "data_docs"), (args.validation, "data"), (args.curves, "training")):
            tracker.artifact(path, folder)
    training.keep(args.model)


if __name__ == "__main__":
    run_stage(with_workers(main, lambda: load_params().runtime))
