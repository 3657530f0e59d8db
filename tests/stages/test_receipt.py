"""Registration is an effect outside of the files: DVC must run it wherever the registry may not hold the model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
STAGE = """
stages:
  register:
    cmd: python register.py
    params: [model]
    outs:
      - models/registered.json: {receipt}
"""
SCRIPT = """
from pathlib import Path
Path("models").mkdir(exist_ok=True)
Path("models/registered.json").write_text(Path("params.yaml").read_text())
with open("registered.log", "a") as log:
    log.write(Path("params.yaml").read_text())
"""


def run(folder: Path, *command: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    named = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b.c",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b.c",
    }
    environment = os.environ | named | {"PATH": path, "DVC_NO_ANALYTICS": "1"}
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)


def registered(folder: Path) -> int:
    """How often the stage has run here."""
    log = folder / "registered.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose one stage leaves the receipt that dvc.yaml describes."""
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    [(_, receipt)] = stages["register"]["outs"][0].items()
    flags = ", ".join(f"{key}: {str(value).lower()}" for key, value in receipt.items())
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "dvc.yaml").write_text(STAGE.replace("{receipt}", f"{{{flags}}}"))
    (folder / "register.py").write_text(SCRIPT)
    (folder / "params.yaml").write_text("model: 1\n")
    (folder / ".gitignore").write_text("/models/\n/registered.log\n")
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    run(folder, "dvc", "repro")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "results")
    return folder


def test_a_clone_registers_though_dvc_lock_says_that_nothing_changed(project: Path) -> None:
    run(project.parent, "git", "clone", "-q", str(project), "clone")
    clone = project.parent / "clone"
    run(clone, "dvc", "repro")
    assert registered(clone) == 1
    run(clone, "git", "diff", "--exit-code")


def test_nothing_changed_registers_nothing_and_a_change_back_registers_again(project: Path) -> None:
    run(project, "dvc", "repro")
    assert registered(project) == 1
    for model in (2, 1):
        (project / "params.yaml").write_text(f"model: {model}\n")
        run(project, "dvc", "repro")
    assert registered(project) == 3


def test_a_clone_that_pulled_the_receipt_has_nothing_to_do(project: Path) -> None:
    run(project, "dvc", "remote", "add", "-d", "store", "../remote")
    run(project, "git", "commit", "-qam", "a remote")
    run(project, "dvc", "push")
    run(project.parent, "git", "clone", "-q", str(project), "clone")
    clone = project.parent / "clone"
    run(clone, "dvc", "pull")
    run(clone, "dvc", "repro")
    assert registered(clone) == 0
    run(clone, "dvc", "repro", "--force", "--single-item", "register")
    assert registered(clone) == 1, "as a person asks for it"
