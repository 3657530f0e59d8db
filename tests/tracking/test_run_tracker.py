"""Metrics, pictures and parameters arrive in the run."""

from pathlib import Path

import pytest
from PIL import Image
from tracked_run import run_of, start
from waiting import wait_for

from ddpm.errors import UserError
from ddpm.tracker import finishing
from ddpm.tracking import run_tracker
from ddpm.tracking.run_tracker import MlflowTracker


def test_every_metric_is_in_the_run_once_it_is_finished(project: Path) -> None:
    tracker = start()
    for k in range(2500):  # more than MLflow takes in one call
        tracker.log({"loss": k / 10}, images_seen=k * 128)
    tracker.finish()
    history = tracker.client.get_metric_history(tracker.id, "loss")
    assert [(m.step, m.value) for m in history] == [(k * 128, k / 10) for k in range(2500)]
    assert run_of(tracker).info.status == "FINISHED"


def test_metrics_arrive_while_the_training_goes_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_tracker, "FLUSH_SECONDS", 0.05)
    tracker = start()
    tracker.log({"loss": 0.5}, images_seen=128)
    wait_for(lambda: run_of(tracker).data.metrics)
    assert run_of(tracker).data.metrics == {"loss": 0.5}
    assert run_of(tracker).info.status == "RUNNING"
    tracker.finish()


def diverge(tracker: MlflowTracker) -> None:
    tracker.log({"loss": 9.0}, images_seen=128)
    raise UserError("loss is not finite")


def test_a_training_that_raises_leaves_a_failed_run_with_its_metrics(project: Path) -> None:
    tracker = start()
    with pytest.raises(UserError), finishing(tracker):
        diverge(tracker)
    assert run_of(tracker).info.status == "FAILED"
    assert run_of(tracker).data.metrics == {"loss": 9.0}


def test_a_parameter_too_long_for_mlflow_is_kept_whole_as_an_artifact(project: Path) -> None:
    tracker = start()
    whole = ", ".join(f"class {k}" for k in range(2000))
    tracker.params({"data.names": whole, "train.lr": 0.001})
    tracker.finish()
    params = run_of(tracker).data.params
    assert params["train.lr"] == "0.001"
    assert params["data.names"] == f"{len(whole)} characters, see the artifact params/data.names.txt"
    stored = tracker.client.download_artifacts(tracker.id, "params/data.names.txt")
    assert Path(stored).read_text() == whole


def test_the_machine_is_measured_while_the_run_goes_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    monkeypatch.setattr(run_tracker, "FLUSH_SECONDS", 0.05)
    tracker = start()
    wait_for(lambda: any(k.startswith("system/") for k in run_of(tracker).data.metrics))
    tracker.finish()
    assert "system/cpu_utilization_percentage" in run_of(tracker).data.metrics


def test_pictures_are_stored_by_step(project: Path) -> None:
    tracker = start()
    for seen in (0, 1000):
        tracker.image("training/samples", Image.new("L", (16, 16)), images_seen=seen)
    tracker.finish()
    names = [file.path for file in tracker.client.list_artifacts(tracker.id, "images")]
    for seen in (0, 1000):
        assert any(name.startswith(f"images/training~samples+step+{seen}+") and name.endswith(".png") for name in names)
