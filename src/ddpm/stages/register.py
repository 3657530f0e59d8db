"""DVC stage `register`: the model in the registry; the champion's alias moves or stays, and the version says why."""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm import config
from ddpm.workspace import run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("prepared", "extractor", "model", "run", "metrics", "receipt"):
        parser.add_argument(f"--{option}", type=Path, required=True)
    args = parser.parse_args()
    params = config.load()

    from ddpm import model_file
    from ddpm.files import write_json
    from ddpm.integrations import mlflow_store, registry

    measured = json.loads(args.metrics.read_text())
    run = mlflow_store.attach(args.run)
    assert run.model_id is not None  # attach found it
    model = model_file.load(args.model)
    candidate = registry.register(
        name=params.promote.name,
        sha256=model.sha256,
        model_id=run.model_id,
        run_id=run.id,
        record=measured,
        tags=registry.origin(model, run),
    )

    def remeasure(file: Path) -> Mapping[str, Any]:
        from ddpm.integrations import fidelity

        return fidelity.remeasure(
            file,
            protocol=measured["protocol"],
            prepared=args.prepared,
            extractor=args.extractor,
            evaluate=params.evaluate,
            runtime=params.runtime,
        )

    with tempfile.TemporaryDirectory() as folder:
        outcome = registry.judge(candidate, rule=params.promote, remeasure=remeasure, folder=Path(folder))
    known = {"name": params.promote.name, "model_sha256": model.sha256, "tracking_uri": mlflow_store.shown_uri()}
    write_json(args.receipt, known)
    print(registry.summary(outcome, metric=params.promote.metric))


if __name__ == "__main__":
    run_stage(main)
