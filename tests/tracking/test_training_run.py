"""The run of a training, also of a training that was killed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tracked_run import FACTS, KILLED_TRAINING, run_of, start

from ddpm.tracking import training_run


def test_a_run_says_who_made_it_from_which_code_and_data(project: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        return subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (project / "params.yaml").write_text("a: 1\n")
    git("add", "params.yaml")
    git("commit", "-qm", "first")
    (project / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  prepare:\n    cmd: x\n    outs:\n    - path: data/prepared\n      md5: 0123.dir\n"
    )
    clean = start()
    (project / "params.yaml").write_text("a: 2\n")
    dirty = start()
    tags = run_of(clean).data.tags
    assert tags["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    assert (tags["git.dirty"], run_of(dirty).data.tags["git.dirty"]) == ("false", "true")
    assert tags["data.dvc_hash"] == "0123.dir"
    assert tags["data.content_hash"] == FACTS.content_hash
    assert tags["mlflow.user"]
    for tracker in (clean, dirty):
        tracker.finish()


def test_the_data_are_an_input_of_the_run_by_content_hash(project: Path) -> None:
    tracker = start()
    tracker.finish()
    [given] = run_of(tracker).inputs.dataset_inputs
    assert given.dataset.name == "shapes"
    assert FACTS.content_hash.startswith(given.dataset.digest)
    assert json.loads(given.dataset.profile)["train"] == 80
    assert run_of(tracker).data.params["dataset.classes"] == "('circle', 'square')"


@pytest.mark.parametrize("flush", [0.05, 600.0], ids=["all was sent", "nothing was sent"])
def test_a_killed_training_goes_on_in_the_same_run_and_says_everything_once(project: Path, flush: float) -> None:
    facts = {name: getattr(FACTS, name) for name in FACTS.__dataclass_fields__}
    program = KILLED_TRAINING.format(facts=facts, flush=flush)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run_id = done.stdout.strip()
    assert (project / "kept" / "unsent").exists() == (flush > 1)

    tracker = start(run_id, kept=project / "kept")
    assert tracker.run_id == run_id
    assert run_of(tracker).info.status == "RUNNING"
    for seen in (200, 300, 400):  # the last checkpoint was at 100
        tracker.log({"loss": seen / 100}, images_seen=seen)
    for seen in (200, 400):
        tracker.image("training/samples", Image.new("L", (16, 16)), images_seen=seen)
    tracker.finish()

    assert [m.step for m in tracker.client.get_metric_history(run_id, "loss")] == [100, 200, 300, 400]
    pictures = [f.path for f in tracker.client.list_artifacts(run_id, "images") if f.path.endswith(".png")]
    assert len(pictures) == 2
    assert run_of(tracker).info.status == "FINISHED"
    assert not (project / "kept" / "unsent").exists()


def test_a_run_to_resume_that_the_store_has_lost_is_continued_by_a_new_one_that_names_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = "f" * 32
    tracker = start(lost)
    tracker.finish()
    assert tracker.run_id != lost
    assert run_of(tracker).data.tags["continues"] == lost
    assert f"run {lost} is not known to MLflow at sqlite:///mlflow.db" in capsys.readouterr().err


class CutOffError(Exception):
    pass


@pytest.mark.parametrize("cut_off", ["_log_dataset", "flat"])
def test_a_run_whose_id_never_came_back_is_found_again_by_the_next_start(
    project: Path, monkeypatch: pytest.MonkeyPatch, cut_off: str
) -> None:
    def cut(*args: object, **more: object) -> None:
        raise CutOffError

    with monkeypatch.context() as patch:
        patch.setattr(training_run, cut_off, cut)
        with pytest.raises(CutOffError):
            start(kept=project / "kept")
    tracker = start(kept=project / "kept")
    tracker.finish()
    [run] = tracker.client.search_runs([tracker.experiment_id])
    assert run.info.run_id == tracker.id
    assert run.data.params["dataset.classes"] == "('circle', 'square')"
    assert len(run.inputs.dataset_inputs) == 1
