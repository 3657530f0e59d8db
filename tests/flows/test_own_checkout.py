"""`retrain.commit: branch`: the flow works at the last commit, beside a person, and its results become a commit."""

import json
import sqlite3
from collections.abc import Iterator

import pytest
from conftest import Project, new_project
from waiting import HANG_SECONDS, wait_for

GIT = {"GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "Ann"}
GIT |= {"GIT_CONFIG_KEY_1": "user.email", "GIT_CONFIG_VALUE_1": "ann@example.org"}


@pytest.fixture
def edited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A committed project whose retrainings have a checkout, with an edit that is not committed."""
    with new_project(tmp_path_factory.mktemp("git") / "a project") as project:
        params = project.path / "params.yaml"
        params.write_text(params.read_text().replace("  commit: none", "  commit: branch"))
        (project.path / ".dvc/config").write_text("[core]\n    analytics = false\n")
        (project.path / "reports/.gitkeep").touch()
        (project.path / ".gitignore").write_text("/.state\n/data/raw\n/go\n/log\n/stage.pid\n/.dvc/tmp\n/.dvc/cache\n")
        (project.path / ".dvcignore").write_text(".state\n")
        for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "the project")):
            assert project.run("git", *words, **GIT).returncode == 0
        with (project.path / "stage.py").open("a") as code:
            code.write("# edited\n")
        yield project


def page(project: Project) -> str:
    with sqlite3.connect(project.path / ".state/prefect.db") as database:
        [(data,)] = database.execute("select data from artifact where key = 'retraining' order by created desc limit 1")
        return str(json.loads(data))


@pytest.mark.slow
def test_a_person_goes_on_in_the_folder_while_the_flow_works_at_the_last_commit(edited: Project) -> None:
    checkout = edited.path / ".state/retraining"
    edited.say("held")
    flow = edited.start("python", "flows/retrain.py", log=edited.path / "log", **GIT)
    wait_for(lambda: (checkout / "stage.pid").exists(), process=flow)
    (edited.path / "go").touch()  # lets the person's stage end, not that of the retraining
    by_hand = edited.run("dvc", "repro")
    assert by_hand.returncode == 0, by_hand.stdout
    assert flow.poll() is None
    (checkout / "go").touch()
    assert flow.wait(timeout=HANG_SECONDS) == 0, (edited.path / "log").read_text()
    assert "# edited" not in (checkout / "stage.py").read_text()
    said = page(edited)
    assert "## Where it worked" in said
    assert "uncommitted edits are not part of it: " in said
    assert "stage.py" in said.partition("uncommitted edits")[2]
    made = edited.run("git", "show", "--stat", "--format=%an %s", "retraining").stdout
    assert made.startswith("Ann Retraining: Completed")
    assert "dvc.lock" in made
    assert "on the branch retraining" in said
