"""A real search of three trials on the digits: killed, continued, one trial stopped, the best one before the gate."""

import hashlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Project, new_project
from ruamel.yaml import YAML
from waiting import wait_for

pytest.importorskip("optuna")

SMALL: dict[str, dict[str, Any]] = {
    "features": {"images": 2000},
    "network": {"width": 8, "head_channels": 8},
    "train": {"images": 15_000, "warmup_images": 500, "decay_images": 1000},
    "sample": {"steps": 2, "images": 200},
    "evaluate": {"kid_subsets": 2, "during": 100},
    "promote": {"rules": [{"figure": "fid", "better_by": 0.02}]},
    "search": {"random": 1},
    "tracking": {"grid_every_images": 640},
    "runtime": {"progress": False, "checkpoint_seconds": 0.5},
}
HOPELESS = 1e-9
SPACE = f"train: {{lr: [0.002, 0.001, {HOPELESS:.10f}]}}\n"


@pytest.fixture
def digits(tmp_path: Path) -> Iterator[Project]:
    """The project in a git repository with one commit, in which nothing has run."""
    with new_project(tmp_path / "a project") as project:
        shutil.copytree(ROOT / "src", project.path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        shutil.rmtree(project.path / "data")
        for name in ("raw", "guides", "starts"):
            shutil.copytree(ROOT / "data" / name, project.path / "data" / name)
        for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
            shutil.copy(ROOT / name, project.path / name)
        (project.path / ".dvc/config").write_text("[core]\n    analytics = false\n")
        yaml = YAML()
        params = yaml.load(ROOT / "params.yaml")
        for section, values in SMALL.items():
            params[section].update(values)
        yaml.dump(params, project.path / "params.yaml")
        (project.path / "space.yaml").write_text(SPACE)
        git(project, "init", "--quiet")
        git(project, "add", "--all")
        git(project, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "start")
        yield project


def git(project: Project, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=project.path, capture_output=True, text=True, check=True).stdout


def search(project: Project, log: Path, trials: int = 3) -> subprocess.Popen[str]:
    with log.open("w") as file:
        return subprocess.Popen(
            ["python", "flows/search.py", "--space", "space.yaml", "--trials", str(trials)],
            cwd=project.path,
            env=project.environment(PYTHONPATH=str(project.path / "src"), OMP_NUM_THREADS="1"),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
        )


def study_of(project: Project) -> Any:
    import optuna

    (file,) = project.path.glob(".state/search/*/study.db")
    return optuna.load_study(study_name="search", storage=f"sqlite:///{file}")


def pixels(prepared: Path, split: str) -> set[bytes]:
    from ddpm.data.reading.dataset import read_split

    images = read_split(prepared, split).images  # type: ignore[arg-type]
    return {hashlib.sha256(images[k].tobytes()).digest() for k in range(len(images))}


def data_read(project: Project, experiment: str, stage: str) -> str:
    """DVC's hash of the prepared images that the stage of this experiment read."""
    (ref,) = git(project, "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{experiment}").split()
    lock = YAML(typ="safe").load(git(project, "show", f"{ref}:dvc.lock"))
    return str(next(dep["md5"] for dep in lock["stages"][stage]["deps"] if dep["path"] == "data/prepared"))


@pytest.mark.slow
def test_a_search_that_was_killed_ends_in_one_candidate_and_no_trial_had_held_out_images(
    digits: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (digits.path / "params.yaml").read_text()
    killed = search(digits, tmp_path / "killed.log")
    wait_for(
        lambda: (
            list(digits.path.glob(".state/search/*/trials/.state/train/*/*.safetensors")) or killed.poll() is not None
        )
    )
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    study_of(digits).enqueue_trial({"train.lr": f"{HOPELESS:g}"})

    log = tmp_path / "continued.log"
    assert search(digits, log).wait() == 0, log.read_text()
    text = log.read_text()
    assert "continuing after" in text, "the trial that was killed began anew"
    assert "3 trials, " in text

    trials = study_of(digits).get_trials()
    assert [trial.state.name for trial in trials[:2]] == ["COMPLETE", "PRUNED"]
    assert len(trials) == 3
    assert trials[0].params == {"train.lr": "0.002"}, "the first trial has the present settings"

    (folder,) = digits.path.glob(".state/search/*/trials")
    seen = pixels(folder / "data/prepared", "train") | pixels(folder / "data/prepared", "test")
    assert seen == pixels(digits.path / "data/prepared", "train")
    assert not seen & pixels(digits.path / "data/prepared", "test")
    name = f"search-{folder.parent.name[:8]}"
    of_trial = {data_read(digits, f"{name}-trial-0", stage) for stage in ("train", "evaluate")}
    of_candidate = {data_read(digits, f"{name}-candidate", stage) for stage in ("train", "evaluate")}
    of_project = YAML(typ="safe").load((digits.path / "dvc.lock").read_text())["stages"]["prepare"]["outs"][0]["md5"]
    assert of_candidate == {of_project}
    assert len(of_trial) == 1
    assert of_trial != of_candidate
    saved = git(digits, "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps").split()
    assert saved == [f"{name}-candidate", *(f"{name}-trial-{k}" for k in range(3))]

    monkeypatch.chdir(digits.path)
    from ddpm.promotion.registry import champion
    from ddpm.tracking import store
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    client = store.connect()
    runs = client.search_runs([client.get_experiment_by_name("ddpm search").experiment_id])
    (parent,) = [run for run in runs if "search.trial" not in run.data.tags]
    nested = {run.data.tags["search.trial"]: run for run in runs if run is not parent}
    assert len(runs) == 4
    assert {run.data.tags["mlflow.parentRunId"] for run in nested.values()} == {parent.info.run_id}
    assert [nested[str(k)].data.tags["search.state"] for k in range(2)] == ["measured", "pruned"]
    assert client.get_metric_history(nested["1"].info.run_id, "training/fid")[-1].step < SMALL["train"]["images"]
    assert "fid" not in nested["1"].data.metrics
    (of_model,) = client.search_runs([client.get_experiment_by_name("ddpm").experiment_id])
    assert of_model.data.tags["search"] == parent.info.run_id

    registry = MlflowRegistry("ddpm")
    assert [version.number for version in registry.versions()] == ["1"]
    found = champion(registry)
    assert found is not None
    assert found.run_id == of_model.info.run_id
    assert (digits.path / "params.yaml").read_text() == before
    assert not (digits.path / "models/model.safetensors").exists()


@pytest.mark.slow
def test_a_search_without_a_commit_or_a_space_is_refused_before_any_stage(digits: Project, tmp_path: Path) -> None:
    (digits.path / "space.yaml").write_text("train: {lr: 0.1}\n")
    log = tmp_path / "refused.log"
    assert search(digits, log).wait() == 1
    assert "space.yaml: train.lr is 0.1, expected a list of values" in log.read_text()
    shutil.rmtree(digits.path / ".git")
    assert search(digits, log).wait() == 1
    assert "is not a git repository with a commit" in log.read_text()
    assert not (digits.path / "data/prepared").exists()
