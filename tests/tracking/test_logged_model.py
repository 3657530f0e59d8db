"""The logged model of a run: one for each file, with its metrics, after any interruption of logging."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tracked_run import run_of, start, write_run

from ddpm.tracking.logged_model import log_model
from ddpm.tracking.run_json import attach
from ddpm.tracking.run_tracker import MlflowTracker


def test_a_later_stage_adds_to_the_run_and_logs_its_model_with_metrics_and_leaves_the_status(
    project: Path, tiny_model: Callable[..., str]
) -> None:
    tracker = start()
    run_json = write_run(tracker, project / "run.json")
    tracker.finish("FAILED")
    attached = attach(run_json)
    attached.log({"recall": 0.5}, images_seen=1000)
    attached.finish()
    sha = tiny_model(project / "model.safetensors")
    metrics = {"fid": 3.5}
    model_id = log_model(attached, project / "model.safetensors", model_sha256=sha, metrics=metrics)
    assert run_of(tracker).data.metrics == {"recall": 0.5, "fid": 3.5}
    assert run_of(tracker).info.status == "FAILED"
    assert attach(run_json).id == tracker.id
    [best] = tracker.client.search_logged_models(
        [tracker.experiment_id], order_by=[{"field_name": "metrics.fid", "ascending": True}]
    )
    assert (best.model_id, best.metrics[0].key, best.metrics[0].value) == (model_id, "fid", 3.5)


def test_logging_a_model_twice_in_a_run_keeps_one(project: Path, tiny_model: Callable[..., str]) -> None:
    tracker = start()
    sha = tiny_model(project / "model.safetensors")
    first = log_model(tracker, project / "model.safetensors", model_sha256=sha)
    again = log_model(tracker, project / "model.safetensors", model_sha256=sha)
    tracker.finish()
    assert first == again
    assert len(tracker.client.search_logged_models([tracker.experiment_id])) == 1


class CutOffError(Exception):
    pass


class CutOffAfter:
    """A client whose n-th call reaches the store and never returns."""

    def __init__(self, client: Any, n: int) -> None:
        self.client, self.left = client, n

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            answer = getattr(self.client, name)(*args, **more)
            self.left -= 1
            if self.left == 0:
                raise CutOffError(name)
            return answer

        return call


def test_logging_a_model_may_be_cut_off_after_any_call_and_is_one_model_when_it_is_repeated(
    project: Path, tiny_model: Callable[..., str]
) -> None:
    sha = tiny_model(project / "model.safetensors")
    tracker = start()
    there = tracker.client
    cuts = 0
    for n in range(1, 20):
        tracker = MlflowTracker(there, there.create_run(tracker.experiment_id), owner=False)
        tracker.client = CutOffAfter(there, n)  # type: ignore[assignment]
        try:
            log_model(tracker, project / "model.safetensors", model_sha256=sha, metrics={"fid": 3.5})
        except CutOffError:
            cuts += 1
        tracker.client = there
        model_id = log_model(tracker, project / "model.safetensors", model_sha256=sha, metrics={"fid": 3.5})
        models = there.search_logged_models([tracker.experiment_id], f"source_run_id = '{tracker.id}'")
        assert [(model.model_id, model.status) for model in models] == [(model_id, "READY")]
        assert [output.model_id for output in run_of(tracker).outputs.model_outputs] == [model_id]
        assert [figure.value for figure in there.get_metric_history(tracker.id, "fid")] == [3.5]
        if cuts < n:
            break
    assert cuts >= 6
