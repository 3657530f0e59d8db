"""models/run.json leads to the run that made the model."""

import json
from pathlib import Path

import pytest
from tracked_run import run_of, start, write_run

from ddpm.errors import UserError
from ddpm.tracking import store
from ddpm.tracking.run_json import attach


def test_the_same_training_leaves_the_same_run_json_and_the_newest_run_is_found(project: Path) -> None:
    records = []
    for _ in range(2):
        tracker = start()
        records.append(write_run(tracker, project / "run.json").read_text())
        tracker.finish()
    assert records[0] == records[1]
    assert attach(project / "run.json").id == tracker.id


def test_run_json_names_no_path_of_this_machine_and_no_password(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = start()
    assert json.loads(write_run(tracker, tmp_path / "run.json").read_text())["tracking_uri"] == "sqlite:///mlflow.db"
    tracker.finish()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example:8443/path")
    assert store.shown_uri() == "https://mlflow.example:8443/path"


def test_a_run_that_the_store_does_not_know_is_one_sentence_with_both_stores(project: Path) -> None:
    record = {"experiment": "e", "model_sha256": "s"}
    (project / "run.json").write_text(json.dumps(record | {"tracking_uri": "http://elsewhere:5000"}))
    with pytest.raises(UserError) as error:
        attach(project / "run.json")
    for part in ("'e'", "sqlite:///mlflow.db", "http://elsewhere:5000", "dvc repro -f -s train"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", '{"run_id": "x"}'])
def test_a_run_json_that_names_no_run_is_one_sentence(project: Path, content: str) -> None:
    (project / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json does not name a run"):
        attach(project / "run.json")


def test_other_settings_of_sampling_get_a_run_of_their_own_and_the_former_ones_their_run_again(project: Path) -> None:
    trained = start()
    trained.params({"sample.sampler": "ddim", "sample.steps": 10, "train.lr": 0.1})
    write_run(trained, project / "run.json")
    trained.finish()
    former, other = {"sample.sampler": "ddim", "sample.steps": 10}, {"sample.sampler": "ddim", "sample.steps": 50}
    assert attach(project / "run.json", former).id == trained.id

    again = attach(project / "run.json", other)
    assert again.id != trained.id
    run = run_of(again)
    assert run.data.params == run_of(trained).data.params | {"sample.steps": "50"}
    assert (run.info.run_name, run.info.status) == ("50 steps", "FINISHED")
    assert run.data.tags["trained_by"] == trained.id
    assert run.inputs.dataset_inputs[0].dataset.name == "shapes"
    assert attach(project / "run.json", other).id == again.id, "one run for each setting"
    assert attach(project / "run.json", former).id == trained.id
