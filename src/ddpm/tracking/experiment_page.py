"""The page of the experiment in MLflow: it explains itself, and has a view of the runs with the columns that matter.

MLflow keeps all of this in tags of the experiment. A view of the page (menu "Views") is the tag
`mlflow.sharedViewState.ID`; keys that it lacks have MLflow's defaults. The page of MLflow 3.17 opens every experiment
as one of language models until a person chooses "Model training" or an address says so, whatever the experiment's kind
is. So the first line of the description, which is visible on every page, and all addresses of ddpm (`address`) lead to
the list of runs.
"""

import hashlib
import json
from time import time
from typing import TYPE_CHECKING

from ddpm.measuring.metric_catalogue import Metric, with_floors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

KIND = "mlflow.experimentKind"
MODEL_TRAINING = "custom_model_development"
"""Other versions of MLflow open the experiment by it; without it 3.17 asks for it."""
VIEW = "overview"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
WRITTEN_TAG = "ddpm.written"
"""Tag with the sha256 of the description that ddpm wrote, so that one that a person edited is left alone."""
_AS_TRAINING, _IN_VIEW = "workflowType=machine_learning", f"viewStateShareKey={VIEW}"
COLUMNS = {
    "metrics": ("fid", "fid_floor", "precision", "recall"),
    "tags": ("decision",),
    "params": ("schedule.name", "objective.target", "sample.sampler", "train.images"),
}
"""Columns of the view, by where MLflow finds them."""
_FIRST_COLUMNS = ("0", "attributes.`Run Name`", "runDateAndNestInfo", "duration")
"""Ids that MLflow's page gives to the columns that every view has; the first one is that of the boxes."""

_HEAD = """\
**[Open the list of runs]({link})**: decisions, metrics and settings (also in the menu Views).

Every run is one training of a diffusion model, with the images that it generated, their metrics and the decision
whether it became the champion.

**Names of runs** tell what differs from the champion at that time: `linear, eps, 3k images` is a training with the
schedule linear and the target eps on 3,000 images, all else like the champion's. The first run names its schedule,
target and length. A run without curves measured a finished model with other settings. Each run's
description has its samples, metrics, decision and links.

**Charts**: `training` has FID and loss while the model was trained, and its samples by step; `training_details` has the
rest of the curves; the metrics of the finished model are below. Compare a metric with its floor: the same metric of
real images, measured the same way. `NAME_low` and `NAME_high` are the ends of a metric's 95 % interval: other images of
the same model, measured against other held-out images, would give such values.
"""


def present(client: "MlflowClient", experiment: "Experiment") -> None:
    """Write the kind, the description and the view, except what a person has changed."""
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE  # the same key for experiments

    tags = experiment.tags
    wanted = {KIND: MODEL_TRAINING} if KIND not in tags else {}
    text = description(experiment.experiment_id)
    there = tags.get(MLFLOW_RUN_NOTE)
    if there != text and (there is None or _sha256(there) == tags.get(WRITTEN_TAG)):
        wanted |= {MLFLOW_RUN_NOTE: text, WRITTEN_TAG: _sha256(text), VIEW_TAG: view()}
    for key, value in wanted.items():
        client.set_experiment_tag(experiment.experiment_id, key, value)


def description(experiment_id: str) -> str:
    """Return the description in Markdown: what the experiment is, how to read it, and what the metrics mean."""
    link = address("", experiment_id)
    rows = ["| metric | meaning | unit | better |", "|---|---|---|---|"]
    return "\n".join([_HEAD.format(link=link), *rows, *map(_row, with_floors())])


def address(server: str, experiment_id: str) -> str:
    """Return the address of the list of runs with its view, at the address of an MLflow server or relative to it."""
    return f"{server.rstrip('/')}{'/' if server else ''}#/experiments/{experiment_id}/runs?{_AS_TRAINING}&{_IN_VIEW}"


def view() -> str:
    """Return the value of the tag that is a view of the list of runs."""
    columns = {where: [f"{where}.`{name}`" for name in names] for where, names in COLUMNS.items()}
    state = {
        "selectedColumns": [column for named in columns.values() for column in named],
        # MLflow puts tags after all metrics and settings, which is outside of a window of 1400 pixels.
        "columnOrder": [*_FIRST_COLUMNS, *columns["tags"], *columns["metrics"], *columns["params"]],
        "columnWidths": dict.fromkeys(columns["tags"], 170),
    }
    now = int(time() * 1000)
    return json.dumps({"name": "Metrics and decisions", "createdAt": now, "updatedAt": now, "state": json.dumps(state)})


def _row(metric: Metric) -> str:
    return f"| `{metric.name}` | {metric.meaning} | {metric.unit} | {metric.better or ''} |"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
