"""A champion of the real stages, brought back in a fresh clone: its files are there, and nothing is left to do."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
SMALL = {
    "features": {"images": 2000},
    "network": {"width": 16, "head_channels": 16},
    "train": {"images": 3000, "warmup_images": 500, "decay_images": 1000},
    "sample": {"steps": 5, "images": 300},
    "evaluate": {"kid_subsets": 5},
}
NOBODY = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
RESULTS = ("models", "data/prepared", "data/generated")

pytestmark = pytest.mark.slow


def run(folder: Path, *command: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | NOBODY | {"PATH": path, "PYTHONPATH": str(folder / "src"), "DVC_NO_ANALYTICS": "1"}
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pipeline has run, committed and tagged."""
    folder = tmp_path_factory.mktemp("brought back") / "project"
    for name in ("src", "data/raw", "data/guides", "data/starts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    for section, values in SMALL.items():
        params[section].update(values)
    yaml.dump(params, folder / "params.yaml")
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    run(folder, "dvc", "repro")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "a champion")
    run(folder, "git", "tag", "ddpm-1")
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = [path for name in RESULTS for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_the_tag_and_the_remote_bring_the_champion_back_and_nothing_is_left_to_do(
    kind: str, project: Path, tmp_path: Path, s3: str
) -> None:
    run(project, "dvc", "remote", "add", "-f", "store", f"{s3}/dvc" if kind == "s3" else str(tmp_path / "remote"))
    run(project, "dvc", "push", "-r", "store")
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", "--branch", "ddpm-1", str(project), str(clone))
    shutil.copy(project / ".dvc/config", clone / ".dvc/config")
    run(clone, "dvc", "pull", "-r", "store")
    assert digests(clone) == digests(project)
    assert "Data and pipelines are up to date." in run(clone, "dvc", "repro")
    assert not (clone / "mlflow.db").exists(), "no stage has run"
    assert run(clone, "git", "status", "--porcelain").split() == ["M", ".dvc/config"]

    said = run(clone, "dvc", "repro", "-f", "-s", "register", "report")
    assert "had no run of the model of models/run.json; it got one from the record" in said
    assert "ddpm version 1" in said
    assert "Data and pipelines are up to date." in run(clone, "dvc", "repro")
    assert run(clone, "git", "status", "--porcelain").split() == ["M", ".dvc/config"]
