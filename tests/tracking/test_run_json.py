"""models/run.json leads to the run that made the model."""

import json
from pathlib import Path

import pytest
from tracked_run import FACTS, run_of, start, write_run

from ddpm.errors import UserError
from ddpm.tracking import abandoned_runs, recorded_run, store
from ddpm.tracking.recorded_run import Record
from ddpm.tracking.run_json import attach, has_record, run_record


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


def recorded(path: Path, **tags: str) -> Path:
    """The run.json of a training at another store, with its record."""
    record = Record.of({"train.lr": 0.1, "schedule.name": "cosine", "train.images": 1000}, tags, FACTS)
    made = {"experiment": "tests", "model_sha256": "s" * 64, "tracking_uri": "http://elsewhere:5000"}
    path.write_text(json.dumps(made | {"record": record.to_json()}))
    return path


def test_a_store_without_the_run_gets_one_from_the_record_once(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recorded(project / "run.json", fingerprint="f" * 8)
    made = attach(path, {"sample.steps": 10})
    assert "had no run of the model" in capsys.readouterr().out
    run = run_of(made)
    given = {"train.lr": "0.1", "sample.steps": "10", "dataset.content_hash": FACTS.content_hash}
    assert given.items() <= run.data.params.items()
    assert (run.info.status, run.info.run_name) == ("FINISHED", "cosine, 1k images")
    assert {"fingerprint": "f" * 8, "from_record": "true"}.items() <= run.data.tags.items()
    assert run.inputs.dataset_inputs[0].dataset.name == FACTS.name
    assert attach(path, {"sample.steps": 10}).id == made.id
    assert capsys.readouterr().out == ""


def test_only_a_run_that_was_made_from_the_record_gets_the_curves_of_the_training(project: Path) -> None:
    rows = [{"images_seen": 128.0, "loss": 0.5}, {"images_seen": 256.0, "loss": 0.25}]
    trained, made = start(), attach(recorded(project / "run.json"))
    (project / "curves.csv").write_text("images_seen,loss")
    for tracker in (trained, made):
        recorded_run.complete(tracker, rows, {project / "curves.csv": "training"})
        tracker.finish()
    curve = made.client.get_metric_history(made.id, "training/loss")
    assert [(point.step, point.value) for point in curve] == [(128, 0.5), (256, 0.25)]
    assert [file.path for file in made.client.list_artifacts(made.id)] == ["training"]
    assert "training/loss" not in run_of(trained).data.metrics


def test_a_run_from_the_record_that_was_interrupted_is_not_taken_for_that_of_the_model(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recorded(project / "run.json")
    with monkeypatch.context() as patch:
        patch.setattr(recorded_run, "dataset_input", lambda facts: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            attach(path)
    made = attach(path)
    runs = made.client.search_runs([made.experiment_id])
    assert len(runs) == 2
    assert [run.info.run_id for run in runs if run.data.tags.get("model_sha256")] == [made.id]
    [left] = [run for run in runs if run.info.run_id != made.id]
    assert abandoned_runs.PROCESS_TAG in left.data.tags, "`ddpm doctor` ends it when its process has ended"


def test_the_training_writes_the_record_and_a_file_of_an_older_version_has_none(project: Path) -> None:
    tracker = start()
    record = Record.of({"train.lr": 0.1}, {"fingerprint": "f"}, FACTS)
    path = project / "run.json"
    path.write_text(json.dumps(run_record(tracker, model_sha256="s" * 64, record=record)))
    tracker.finish()
    assert has_record(path)
    assert json.loads(path.read_text())["record"] == json.loads(json.dumps(record.to_json()))
    assert not has_record(write_run(tracker, path))
