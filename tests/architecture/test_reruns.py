"""docs/architecture.md says which stages an edit in a room reruns, and DVC and the training's fingerprint agree."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from ddpm.pipeline import dvc_yaml
from ddpm.training.checkpoint import code_hash

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
ROOMS = {
    room: {stage for stage in stages.split(", ") if stage}
    for room, stages in re.findall(r"^\| `([\w/]+)` \| [^|]* \| ?([^|]*?) ?\|$", PAGE, re.MULTILINE)
}
STAGES: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repo]:
    """A project whose stages depend on the code that the real ones do, do nothing, and are up to date."""
    folder = tmp_path_factory.mktemp("reruns")
    shutil.copytree(ROOT / "src" / "ddpm", folder / "src" / "ddpm", ignore=shutil.ignore_patterns("__pycache__"))
    stages = {
        name: {"cmd": "true", "deps": [dep for dep in stage["deps"] if dep.startswith("src/")]}
        for name, stage in STAGES.items()
    }
    YAML().dump({"stages": stages}, folder / "dvc.yaml")
    Repo.init(str(folder), no_scm=True).close()
    subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet"], cwd=folder, check=True)
    with Repo(str(folder)) as repo:
        yield repo


def changed(repo: Repo) -> set[str]:
    """The stages that `dvc repro` would run, but for `configure`, which depends on all code."""
    return set(repo.status()) - {"configure"}


def test_the_page_has_every_room() -> None:
    packages = {str(path.parent.relative_to(ROOT / "src" / "ddpm")) for path in ROOT.glob("src/ddpm/*/**/*.py")}
    assert set(ROOMS) == packages - {"cli", "data", "stages"}


@pytest.mark.parametrize("room", ROOMS)
def test_an_edit_in_a_room_reruns_the_stages_that_the_page_says(
    room: str, project: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root_dir)
    monkeypatch.setattr(dvc_yaml, "PACKAGE", Path(project.root_dir) / "src" / "ddpm")
    assert changed(project) == set()
    before = code_hash(*dvc_yaml.code_of_stage("train"))
    edited = next(path for path in sorted(Path("src/ddpm", room).glob("*.py")) if path.name != "__init__.py")
    original = edited.read_text()
    edited.write_text(f"{original}# edited\n")
    try:
        assert changed(project) == ROOMS[room]
        another_training = code_hash(*dvc_yaml.code_of_stage("train")) != before
        assert another_training == ("train" in ROOMS[room])
    finally:
        edited.write_text(original)
