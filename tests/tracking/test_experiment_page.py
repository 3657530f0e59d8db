"""The experiment explains itself, and leads to a view of its runs with the columns that matter."""

import json
from pathlib import Path
from typing import Any

from ddpm.measuring.metric_catalogue import with_floors
from ddpm.tracking import experiment, experiment_page, store

NOTE = "mlflow.note.content"


def tags_after_opening() -> tuple[str, dict[str, Any]]:
    client = store.connect(make=True)
    made = experiment.experiment_id(client, "tests-page")
    return made, client.get_experiment(made).tags


def test_it_is_model_training_with_a_description_of_every_metric_and_a_link_to_the_view(project: Path) -> None:
    number, tags = tags_after_opening()
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    for metric in with_floors():
        assert f"| `{metric.name}` | {metric.meaning}" in tags[NOTE]
    assert "`NAME_low` and `NAME_high` are the ends" in tags[NOTE]
    link = f"(#/experiments/{number}/runs?workflowType=machine_learning&viewStateShareKey={experiment_page.VIEW})"
    assert link in tags[NOTE].splitlines()[0], "the one line that is visible before the description is opened"
    assert len(tags[NOTE]) < 20_000  # characters that MLflow takes
    view = json.loads(tags[experiment_page.VIEW_TAG])
    state = json.loads(view["state"])
    assert state["selectedColumns"][0] == "metrics.`fid`"
    order = state["columnOrder"]
    assert order.index("tags.`decision`") < order.index("metrics.`fid`"), "visible in a window of 1400 pixels"


def test_what_a_person_wrote_stays_and_what_ddpm_wrote_is_brought_up_to_date(project: Path) -> None:
    number, tags = tags_after_opening()
    client = store.connect()
    client.set_experiment_tag(number, NOTE, "mine")
    client.set_experiment_tag(number, "mlflow.experimentKind", "genai_development")
    assert tags_after_opening()[1][NOTE] == "mine"
    assert tags_after_opening()[1]["mlflow.experimentKind"] == "genai_development"
    client.set_experiment_tag(number, NOTE, "of an older ddpm")
    client.set_experiment_tag(number, experiment_page.WRITTEN_TAG, experiment_page._sha256("of an older ddpm"))
    assert tags_after_opening()[1][NOTE] == tags[NOTE]
