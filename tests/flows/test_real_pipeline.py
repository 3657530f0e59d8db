"""The real stages on the real digits, as little training as there can be, by the flows."""

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Project, new_project

SMALL: dict[str, dict[str, Any]] = {
    "features": {"images": 2000},
    "network": {"width": 16, "head_channels": 16},
    "train": {"images": 3000, "warmup_images": 500, "decay_images": 1000},
    "sample": {"steps": 5, "images": 300},
    "evaluate": {"kid_subsets": 5},
    "promote": {"rules": [{"figure": "fid", "better_by": 0.02}, {"figure": "memorized_share", "at_most": 0.05}]},
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    from ruamel.yaml import YAML

    with new_project(tmp_path_factory.mktemp("real") / "a project") as project:
        shutil.copytree(ROOT / "src", project.path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        shutil.rmtree(project.path / "data")
        for name in ("raw", "guides", "starts"):
            (project.path / "data" / name).mkdir(parents=True)
        for name in ("dvc.yaml", ".dvcignore"):
            shutil.copy(ROOT / name, project.path / name)
        yaml = YAML()
        params = yaml.load(ROOT / "params.yaml")
        for section, values in SMALL.items():
            params[section].update(values)
        yaml.dump(params, project.path / "params.yaml")
        yield project


def retrain(project: Project) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["python", "flows/retrain.py"],
        cwd=project.path,
        env=project.environment(PYTHONPATH=str(project.path / "src"), OMP_NUM_THREADS="2"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def artifacts(project: Path) -> dict[str, str]:
    with sqlite3.connect(project / ".state/prefect.db") as database:
        rows = database.execute("select key, data from artifact where key is not null order by created")
        return {key: json.loads(data) for key, data in rows}


@pytest.mark.slow
def test_the_digits_become_a_champion_and_the_same_digits_are_no_reason_for_another(digits: Project) -> None:
    first = retrain(digits)
    assert first.returncode == 0, first.stdout
    page = artifacts(digits.path)["retraining"]
    assert page.startswith("# Completed: promoted\n\nversion 1 is the champion now")
    assert "Version 1 of `ddpm` **became the champion**" in page
    assert "reports/data_docs/index.html" in page
    second = retrain(digits)
    assert "nothing has changed, so nothing was done" in second.stdout


@pytest.mark.slow
def test_a_registry_that_lost_the_model_gets_it_again(digits: Project) -> None:
    (digits.path / "mlflow.db").unlink()
    again = retrain(digits)
    assert again.returncode == 0, again.stdout
    assert "the registry does not have the model of this workspace" in again.stdout
    assert "Version 1 of `ddpm` **became the champion**" in artifacts(digits.path)["retraining"]
