"""A small real DVC project with the project's own flows, and a real Prefect server and worker for a module's tests."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_project import ROOT, Prefect, Project, answers, free_port, new_project

__all__ = ["ROOT", "Prefect", "Project", "answers", "free_port", "new_project"]

sys.path.insert(0, str(ROOT / "flows"))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with new_project(tmp_path / "a project") as made:
        yield made


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    folder = tmp_path_factory.mktemp("prefect")
    os.environ["PREFECT_HOME"] = str(folder / "home")
    os.environ["DO_NOT_TRACK"] = "1"
    with new_project(folder / "a project") as project:
        yield Prefect(project, folder)
