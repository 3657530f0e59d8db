"""The MLflow run of a training: a new one, or that of a training that was killed."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ddpm.pipeline.dvc_lock import recorded_md5
from ddpm.promotion.registry import Version, champion
from ddpm.tracker import flat
from ddpm.tracking import abandoned_runs
from ddpm.tracking.experiment import experiment_id, require_artifact_folder
from ddpm.tracking.mlflow_registry import MlflowRegistry
from ddpm.tracking.run_tracker import MlflowTracker
from ddpm.tracking.store import answered, connect, mlflow_errors, shown_uri, user

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

    from ddpm.data.reading.dataset import Facts

KEY_TAG = "training"
TAGS_VARIABLE = "DDPM_RUN_TAGS"
"""Environment variable with more tags of the runs that trainings start, as a JSON object: those of a search."""


def start_run(
    *,
    experiment: str,
    name: str,
    facts: "Facts",
    prepared: Path,
    run_id: str | None = None,
    kept: Path | None = None,
) -> MlflowTracker:
    """Start a run with this name, or continue the run `run_id` of a training that was killed.

    The data set is the run's input, with its content hash. Commit, user and DVC's hash of `prepared` are its tags, and
    the facts of the data its parameters (`dataset.…`). If the store no longer has `run_id`, a new run names it in the
    tag `continues`. `kept` is the folder for entries that are not sent yet and for the key of the training. The key
    finds a run whose id never arrived here. Raise UserError if the store does not answer.
    """
    client = connect(make=True)
    unsent = None if kept is None else kept / "unsent"
    key, is_new = _key(kept)
    found = _find_run(client, run_id) if run_id is not None else None
    if run_id is None and not is_new:
        found = answered(lambda: _run_with_key(client, experiment, key))
    if found is not None:
        previous = found
        answered(lambda: require_artifact_folder(client, previous.info.experiment_id))
        tracker = MlflowTracker(client, previous, owner=True, unsent=unsent)
        answered(lambda: tracker.resume(previous))
    else:
        tags = _origin(prepared, facts) | {KEY_TAG: key} | json.loads(os.environ.get(TAGS_VARIABLE, "{}"))
        run = answered(lambda: client.create_run(experiment_id(client, experiment), tags=tags, run_name=name))
        tracker = MlflowTracker(client, run, owner=True, unsent=unsent)
        if run_id is not None:
            print(f"run {run_id} is not known to MLflow at {shown_uri()}; {tracker.id} continues it", file=sys.stderr)
            tracker.tags({"continues": run_id})
    if found is None or run_id is None:
        tracker.params(flat(dataset=asdict(facts)))
        answered(lambda: _log_dataset(tracker, facts))
    abandoned_runs.sign(tracker)
    tracker.measure_system()
    return tracker


def knows(run_id: str | None) -> bool:
    """Return whether the store has this run and it is not deleted. Raise UserError if the store does not answer."""
    return run_id is not None and _find_run(connect(make=True), run_id) is not None


def champion_run(registered_name: str) -> "tuple[Version, dict[str, str]] | None":
    """Return the champion and the parameters of its run; None if there is no champion, or its run was deleted."""
    client = connect(make=True)
    found = answered(lambda: champion(MlflowRegistry(registered_name)))
    run = _find_run(client, found.run_id) if found is not None and found.run_id is not None else None
    return None if found is None or run is None else (found, run.data.params)


def _key(kept: Path | None) -> tuple[str, bool]:
    """Return the key that marks a training's run, and whether it is new. It is written before the run is requested."""
    path = None if kept is None else kept / "key"
    if path is not None and path.is_file() and (key := path.read_text().strip()).isalnum():
        return key, False
    key = uuid4().hex
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(key)
    return key, True


def _run_with_key(client: "MlflowClient", experiment: str, key: str) -> "Run | None":
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id], f"tags.{KEY_TAG} = '{key}'", max_results=1) if found else []
    return runs[0] if runs else None


def _find_run(client: "MlflowClient", run_id: str) -> "Run | None":
    from mlflow.exceptions import MlflowException

    def run_or_none() -> "Run | None":
        try:
            return client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    run = answered(run_or_none)
    return run if run is not None and run.info.lifecycle_stage == "active" else None


def _log_dataset(tracker: MlflowTracker, facts: "Facts") -> None:
    with mlflow_errors():
        tracker.client.log_inputs(tracker.id, datasets=[dataset_input(asdict(facts))])


def dataset_input(facts: Mapping[str, Any]) -> "DatasetInput":
    """Return the input of a run with these facts of its data."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.utils.validation import MAX_DATASET_DIGEST_SIZE

    shape = {"channels": facts["channels"], "size": facts["size"], "classes": len(facts["classes"])}
    counts = {name: facts[name] for name in ("train", "test", "rejected")}
    dataset = Dataset(
        name=facts["name"],
        digest=facts["content_hash"][:MAX_DATASET_DIGEST_SIZE],
        source_type="local",
        source=json.dumps({"uri": facts["source"]}),
        profile=json.dumps(counts | shape),
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])


def _origin(prepared: Path, facts: "Facts") -> dict[str, str]:
    """Return tags for the user, the code and the data of the run."""
    tags = {"mlflow.source.type": "LOCAL", "mlflow.source.name": Path(sys.argv[0]).name, "mlflow.user": user()}
    tags |= code_tags() | {"data.content_hash": facts.content_hash}
    if (dvc := recorded_md5(prepared)) is not None:
        tags["data.dvc_hash"] = dvc
    return tags


def code_tags() -> dict[str, str]:
    """Return tags for the commit of the working folder and whether its files differ from it; empty without git."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return {}
    dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return {"mlflow.source.git.commit": commit, "git.dirty": str(dirty).lower()}


def _git(*words: str) -> str:
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
