import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ddpm.data.reading.dataset import Facts
from ddpm.errors import UserError
from ddpm.tracker import finishing
from ddpm.tracking import mlflow_store
from ddpm.tracking.mlflow_store import MlflowTracker

FACTS = Facts(
    name="shapes",
    source="folder",
    channels=1,
    size=8,
    classes=("circle", "square"),
    train=80,
    test=20,
    found=101,
    kept=100,
    rejected={"truncated": 1},
    content_hash="0123456789abcdef" * 4,
)
PREPARED = Path("data/prepared")


def start(run_id: str | None = None, kept: Path | None = None) -> MlflowTracker:
    return mlflow_store.start_run(
        experiment="tests", name="a training", facts=FACTS, prepared=PREPARED, run_id=run_id, kept=kept
    )


def run_of(tracker: MlflowTracker) -> Any:
    return tracker.client.get_run(tracker.id)


def write_run(tracker: MlflowTracker, path: Path, model_sha256: str = "s" * 64) -> Path:
    tracker.tags({mlflow_store.MADE: model_sha256})
    path.write_text(json.dumps(mlflow_store.run_record(tracker, model_sha256=model_sha256)))
    return path


def test_by_default_runs_and_their_files_are_in_the_project(project: Path) -> None:
    tracker = start()
    (project / "note.txt").write_text("hello")
    tracker.artifact(project / "note.txt", "notes")
    tracker.finish()
    stored = list((project / "mlartifacts").rglob("note.txt"))
    assert [file.read_text() for file in stored] == ["hello"]
    assert stored[0].parent.name == "notes"
    assert not (project / "mlruns").exists()


def test_in_a_temporary_copy_of_dvc_the_store_is_still_the_project_s(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(project))
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    start().finish()
    assert list((tmp_path / "copy").iterdir()) == []
    assert (project / "mlartifacts").is_dir()


def test_nothing_of_mlflow_s_global_state_is_touched(project: Path) -> None:
    start().finish()
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_every_figure_is_in_the_run_once_it_is_finished(project: Path) -> None:
    tracker = start()
    for k in range(2500):  # more than MLflow takes in one call
        tracker.log({"loss": k / 10}, images_seen=k * 128)
    tracker.finish()
    history = tracker.client.get_metric_history(tracker.id, "loss")
    assert [(m.step, m.value) for m in history] == [(k * 128, k / 10) for k in range(2500)]
    assert run_of(tracker).info.status == "FINISHED"


def test_figures_arrive_while_the_training_goes_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_store, "FLUSH_SECONDS", 0.05)
    tracker = start()
    tracker.log({"loss": 0.5}, images_seen=128)
    deadline = time.monotonic() + 30
    while not run_of(tracker).data.metrics and time.monotonic() < deadline:
        time.sleep(0.05)
    assert run_of(tracker).data.metrics == {"loss": 0.5}
    assert run_of(tracker).info.status == "RUNNING"
    tracker.finish()


def diverge(tracker: MlflowTracker) -> None:
    tracker.log({"loss": 9.0}, images_seen=128)
    raise UserError("loss is not finite")


def test_a_training_that_raises_leaves_a_failed_run_with_its_figures(project: Path) -> None:
    tracker = start()
    with pytest.raises(UserError), finishing(tracker):
        diverge(tracker)
    assert run_of(tracker).info.status == "FAILED"
    assert run_of(tracker).data.metrics == {"loss": 9.0}


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
    assert run_of(tracker).data.params["data.classes"] == "('circle', 'square')"


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
    tracker = start()
    deadline = time.monotonic() + 20
    while not any(k.startswith("system/") for k in run_of(tracker).data.metrics) and time.monotonic() < deadline:
        time.sleep(0.1)
    tracker.finish()
    assert "system/cpu_utilization_percentage" in run_of(tracker).data.metrics


def test_pictures_are_stored_by_step(project: Path) -> None:
    tracker = start()
    for seen in (0, 1000):
        tracker.image("samples", Image.new("L", (16, 16)), images_seen=seen)
    tracker.finish()
    names = [file.path for file in tracker.client.list_artifacts(tracker.id, "images")]
    for seen in (0, 1000):
        assert any(name.startswith(f"images/samples+step+{seen}+") and name.endswith(".png") for name in names)


KILLED_TRAINING = """
import os, signal
from pathlib import Path
from PIL import Image
from ddpm.data.reading.dataset import Facts
from ddpm.tracking import mlflow_store
mlflow_store.FLUSH_SECONDS = {flush}
facts = Facts(**{facts!r})
tracker = mlflow_store.start_run(
    experiment="tests", name="a training", facts=facts, prepared=Path("data/prepared"), kept=Path("kept")
)
print(tracker.id, flush=True)
for seen in (100, 200, 300):
    tracker.log({{"loss": seen / 100}}, images_seen=seen)
tracker.image("samples", Image.new("L", (16, 16)), images_seen=200)
if {flush} < 1:
    tracker.settle()
os.kill(os.getpid(), signal.SIGKILL)
"""


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
        tracker.image("samples", Image.new("L", (16, 16)), images_seen=seen)
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


def test_a_later_stage_adds_to_the_run_and_logs_its_model_with_figures_and_leaves_the_status(
    project: Path, tiny_model: Callable[..., str]
) -> None:
    tracker = start()
    run_json = write_run(tracker, project / "run.json")
    tracker.finish("FAILED")
    attached = mlflow_store.attach(run_json)
    attached.log({"recall": 0.5}, images_seen=1000)
    attached.finish()
    sha = tiny_model(project / "model.safetensors")
    figures = {"fid": 3.5}
    model_id = mlflow_store.log_model(attached, project / "model.safetensors", model_sha256=sha, figures=figures)
    assert run_of(tracker).data.metrics == {"recall": 0.5, "fid": 3.5}
    assert run_of(tracker).info.status == "FAILED"
    assert mlflow_store.attach(run_json).id == tracker.id
    [best] = tracker.client.search_logged_models(
        [tracker.experiment_id], order_by=[{"field_name": "metrics.fid", "ascending": True}]
    )
    assert (best.model_id, best.metrics[0].key, best.metrics[0].value) == (model_id, "fid", 3.5)


def test_the_same_training_leaves_the_same_run_json_and_the_newest_run_is_found(project: Path) -> None:
    records = []
    for _ in range(2):
        tracker = start()
        records.append(write_run(tracker, project / "run.json").read_text())
        tracker.finish()
    assert records[0] == records[1]
    assert mlflow_store.attach(project / "run.json").id == tracker.id


def test_run_json_names_no_path_of_this_machine_and_no_password(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = start()
    assert json.loads(write_run(tracker, tmp_path / "run.json").read_text())["tracking_uri"] == "sqlite:///mlflow.db"
    tracker.finish()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example:8443/path")
    assert mlflow_store.shown_uri() == "https://mlflow.example:8443/path"


def test_a_run_that_the_store_does_not_know_is_one_sentence_with_both_stores(project: Path) -> None:
    record = {"experiment": "e", "model_sha256": "s"}
    (project / "run.json").write_text(json.dumps(record | {"tracking_uri": "http://elsewhere:5000"}))
    with pytest.raises(UserError) as error:
        mlflow_store.attach(project / "run.json")
    for part in ("'e'", "sqlite:///mlflow.db", "http://elsewhere:5000", "dvc repro -f -s train"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", '{"run_id": "x"}'])
def test_a_run_json_that_names_no_run_is_one_sentence(project: Path, content: str) -> None:
    (project / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json does not name a run"):
        mlflow_store.attach(project / "run.json")


def test_a_folder_that_is_no_project_is_not_made_one_by_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    with pytest.raises(UserError, match=r"has no mlflow\.db"):
        mlflow_store.connect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "sqlite:////dev/null/mlflow.db", "nonsense://x", "postgresql://127.0.0.1:9/x"]
)
def test_a_store_that_does_not_answer_is_one_sentence(project: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI") as error:
        mlflow_store.connect()
    assert "\n" not in str(error.value)


def test_a_project_that_was_moved_away_from_its_artifacts_is_told_so(project: Path) -> None:
    start().finish()
    (project / "mlartifacts").rename(project / "elsewhere")
    with pytest.raises(UserError, match="mlartifacts, which is not there"):
        start()
    assert not (project / "mlartifacts").exists()


def test_logging_a_model_twice_in_a_run_keeps_one(project: Path, tiny_model: Callable[..., str]) -> None:
    tracker = start()
    sha = tiny_model(project / "model.safetensors")
    first = mlflow_store.log_model(tracker, project / "model.safetensors", model_sha256=sha)
    again = mlflow_store.log_model(tracker, project / "model.safetensors", model_sha256=sha)
    tracker.finish()
    assert first == again
    assert len(tracker.client.search_logged_models([tracker.experiment_id])) == 1


class CutOffError(Exception):
    pass


class CutOffAfter:
    """A client whose n-th call reaches the store, and never comes back."""

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
            mlflow_store.log_model(tracker, project / "model.safetensors", model_sha256=sha, figures={"fid": 3.5})
        except CutOffError:
            cuts += 1
        tracker.client = there
        model_id = mlflow_store.log_model(
            tracker, project / "model.safetensors", model_sha256=sha, figures={"fid": 3.5}
        )
        models = there.search_logged_models([tracker.experiment_id], f"source_run_id = '{tracker.id}'")
        assert [(model.model_id, model.status) for model in models] == [(model_id, "READY")]
        assert [output.model_id for output in run_of(tracker).outputs.model_outputs] == [model_id]
        assert [figure.value for figure in there.get_metric_history(tracker.id, "fid")] == [3.5]
        if cuts < n:
            break
    assert cuts >= 6


@pytest.mark.parametrize("cut_off", ["_log_dataset", "flat"])
def test_a_run_whose_id_never_came_back_is_found_again_by_the_next_start(
    project: Path, monkeypatch: pytest.MonkeyPatch, cut_off: str
) -> None:
    def cut(*args: object, **more: object) -> None:
        raise CutOffError

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_store, cut_off, cut)
        with pytest.raises(CutOffError):
            start(kept=project / "kept")
    tracker = start(kept=project / "kept")
    tracker.finish()
    [run] = tracker.client.search_runs([tracker.experiment_id])
    assert run.info.run_id == tracker.id
    assert run.data.params["data.classes"] == "('circle', 'square')"
    assert len(run.inputs.dataset_inputs) == 1


@pytest.fixture
def served_folder(tmp_path: Path, tiny_model: Callable[..., str]) -> Path:
    import ddpm

    tiny_model(tmp_path / "model.safetensors")
    mlflow_store.save_served(
        tmp_path / "served",
        tmp_path / "model.safetensors",
        package=Path(ddpm.__file__).parent,
        run_id=None,
        model_id=None,
        location=None,
    )
    return tmp_path / "served"


def test_the_logged_model_holds_no_pickle_and_no_compiled_code(served_folder: Path) -> None:
    files = [path for path in served_folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".py", ".typed", ".txt", ".yaml", ""}
    for path in files:
        start_of_file = path.read_bytes()[:2]
        assert start_of_file not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"), path


def test_the_logged_model_says_exactly_what_it_needs(served_folder: Path) -> None:
    needs = (served_folder / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in needs] == list(mlflow_store.SERVED_PACKAGES)
    assert not any("+" in line for line in needs)


ELSEWHERE = """
import json, sys
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(sys.argv[1])
answer = model.predict([{"number": 2, "seed": 1, "steps": 2}])
import ddpm
heavy = ("torchvision", "sklearn", "matplotlib", "great_expectations", "torch_fidelity", "prefect", "dvc")
print(json.dumps([ddpm.__file__, len(answer[0]["images"]), [name for name in heavy if name in sys.modules]]))
"""


def test_the_logged_model_loads_anywhere_without_the_project_and_imports_nothing_heavy(
    served_folder: Path, tmp_path: Path
) -> None:
    import torch

    (tmp_path / "elsewhere").mkdir()
    # -S: no .pth file makes the project importable; its dependencies are put on the path by hand.
    packages = str(Path(torch.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-S", "-c", ELSEWHERE, str(served_folder)],
        cwd=tmp_path / "elsewhere",
        env=os.environ | {"PYTHONPATH": packages, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    where, images, heavy = json.loads(done.stdout.splitlines()[-1])
    assert Path(where).is_relative_to(served_folder)
    assert images == 2
    assert heavy == []


def test_a_server_by_its_uri_holds_run_pictures_model_and_champion(
    server: str, project: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., str]
) -> None:
    from ddpm.tracking import registry

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    (project / "mlflow.db").unlink()
    tracker = start()
    with finishing(tracker):
        tracker.log({"loss": 0.5}, images_seen=128)
        tracker.image("samples", Image.new("L", (16, 16)), images_seen=128)
        sha = tiny_model(project / "model.safetensors")
        model_id = mlflow_store.log_model(tracker, project / "model.safetensors", model_sha256=sha)
        write_run(tracker, project / "run.json", sha)
    attached = mlflow_store.attach(project / "run.json")
    attached.log({"fid": 3.5}, images_seen=1000)
    attached.finish()
    assert run_of(tracker).data.metrics["loss"] == 0.5
    assert len(tracker.client.list_artifacts(tracker.id, "images")) == 2

    version = registry.register(
        name="ddpm", sha256=sha, model_id=model_id, run_id=tracker.id, record={"fid": 3.5, "floor": {}}, tags={}
    )
    assert version.number == "1"
    assert registry.promote("ddpm", "1", reason="first").version == "1"
    champion = registry.champion("ddpm")
    assert champion is not None
    assert registry.download(champion, project / "down").read_bytes() == (project / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="has no version 9 at http"):
        registry.version("ddpm", "9")
    for name in ("mlflow.db", "mlartifacts", ".state"):
        assert not (project / name).exists()
