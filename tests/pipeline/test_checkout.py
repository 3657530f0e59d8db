"""A retraining works in a checkout of its own, and its results come back as a commit that a clone brings back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm.errors import UserError
from ddpm.pipeline import checkout, dvc_yaml, leftovers, results_commit
from ddpm.tracking import store

DVC_YAML = """
stages:
  train:
    cmd: mkdir -p reports; cat data/raw/*.txt src/code.txt > model; echo {} > reports/metrics.json; echo . >> .state/ran
    deps: [data/raw, src/code.txt]
    outs: [model]
    metrics:
      - reports/metrics.json: {cache: false}
"""


def run(folder: Path, *command: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed project with remotes, pictures that git ignores, and an edit that is not committed."""
    folder = tmp_path / "a project"
    for name in ("data/raw", "reports", "src", ".state"):
        (folder / name).mkdir(parents=True)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / ".gitignore").write_text("/data/raw/*\n!/data/raw/README.md\n/model\n/.state\n")
    (folder / ".dvcignore").write_text(".state\n")
    (folder / "data/raw/README.md").write_text("pictures go here")
    (folder / "data/raw/one.txt").write_text("one ")
    (folder / "src/code.txt").write_text("committed")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
    for k, (name, value) in enumerate({"user.name": "Ann", "user.email": "ann@example.org"}.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{k}", name)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{k}", value)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI", checkout.PROJECT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    run(folder, "dvc", "remote", "add", "-q", "-d", "store", "../remote")
    run(folder, "git", "init", "-q", "--bare", "../origin.git")
    run(folder, "git", "remote", "add", "origin", "../origin.git")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "the project")
    (folder / "src/code.txt").write_text("edited")
    monkeypatch.chdir(folder)
    return folder


def head(project: Path) -> str:
    return run(project, "git", "rev-parse", "HEAD")


def retrained(project: Path, *, tag: str) -> str | None:
    """What a retraining does in the checkout, but for Prefect; the commit of its results."""
    folder = checkout.place(project)
    assert folder is not None
    tip = results_commit.tip(project)
    with checkout.entered(project, folder):
        checkout.bring(project, commit=head(project), results_of=tip)
        linked = checkout.link_inputs(project, dvc_yaml.inputs(data_path="data/raw"))
        assert store.project() == project, "MLflow's store is the project's"
        run(Path.cwd(), "dvc", "repro")
        kept = results_commit.keep_inputs(project, linked)
        made = results_commit.write(project, base=head(project), message="a retraining", inputs=kept)
        if made:
            assert results_commit.tag(project, tag, made)
            results_commit.push(project, [results_commit.BRANCH, tag], lambda sentence: None)
    return made


def times_run(project: Path) -> int:
    ran = project / checkout.FOLDER / ".state/ran"
    return len(ran.read_text().splitlines()) if ran.exists() else 0


def test_the_results_of_the_commit_come_back_and_a_clone_of_the_tag_has_nothing_to_do(edited: Path) -> None:
    before = run(edited, "git", "status", "--porcelain")
    made = retrained(edited, tag="ddpm-1")
    assert (edited / checkout.FOLDER / "model").read_text() == "one committed", "without the edit"
    assert not (edited / "model").exists()
    assert run(edited, "git", "status", "--porcelain") == before
    assert checkout.uncommitted(edited) == ["src/code.txt"]
    assert run(edited, "git", "log", "--format=%an %H", "-1", "retraining") == f"Ann {made}"
    assert run(edited, "git", "rev-parse", "retraining~1") == head(edited)
    assert not (edited / "data/raw").is_symlink()
    assert sorted(path.name for path in (edited / "data/raw").iterdir()) == ["README.md", "one.txt"]

    clone = edited.parent / "clone"
    run(edited, "git", "clone", "-q", "--branch", "ddpm-1", str(edited.parent / "origin.git"), str(clone))
    run(clone, "dvc", "pull")
    assert (clone / "data/raw/one.txt").read_text() == "one "
    assert (clone / "model").read_text() == "one committed"
    assert "up to date" in run(clone, "dvc", "repro")

    assert retrained(edited, tag="ddpm-2") is None, "the next night finds nothing changed"
    assert times_run(edited) == 1
    (edited / "data/raw/two.txt").write_text("two ")
    assert retrained(edited, tag="ddpm-2") is not None
    assert (
        run(edited, "git", "rev-parse", "ddpm-2~1", "retraining")
        == f"{made}\n{run(edited, 'git', 'rev-parse', 'ddpm-2')}"
    )


def test_what_a_kill_leaves_in_the_checkout_does_not_block_the_next_retraining(edited: Path) -> None:
    commit, folder = head(edited), checkout.place(edited)
    assert folder is not None

    def bring() -> None:
        with checkout.entered(edited, folder):
            checkout.bring(edited, commit=commit, results_of=None)
            checkout.link_inputs(edited, [Path("data/raw")])
        assert (folder / "src/code.txt").read_text() == "committed"
        assert (folder / "data/raw").is_symlink()
        assert (edited / "src/code.txt").read_text() == "edited", "git never works above the checkout"

    bring()
    (folder / ".state/train").mkdir()
    (folder / ".git/index.lock").touch()
    bring()
    (folder / ".git/HEAD").unlink()
    (folder / "src/code.txt").write_text("half writ")
    bring()
    (folder / "data/raw").unlink()
    (folder / "data/raw").mkdir()
    (folder / "data/raw/one.txt").hardlink_to(edited / "data/raw/one.txt")  # as `dvc add` was about to read
    bring()
    assert (edited / "data/raw/one.txt").read_text() == "one "
    assert (folder / ".state/train").is_dir(), "checkpoints stay"


def test_a_checkout_in_work_is_no_leftover_of_the_folder_that_somebody_edits(edited: Path) -> None:
    part = edited / checkout.FOLDER / ".state/train/a/x.part"
    part.parent.mkdir(parents=True)
    part.touch()
    assert leftovers.find() == []


def test_without_a_commit_that_has_the_pipeline_there_is_no_checkout(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    assert checkout.place(tmp_path) is None


def test_a_branch_that_somebody_works_on_is_refused(edited: Path) -> None:
    run(edited, "git", "checkout", "-q", "-b", "retraining")
    with pytest.raises(UserError, match=r"the branch retraining is checked out in .*switch to another branch"):
        results_commit.tip(edited)


def test_an_address_with_a_password_is_not_printed(edited: Path) -> None:
    run(edited, "git", "remote", "set-url", "origin", "http://me:top-secret-9@127.0.0.1:9/x.git")
    run(edited, "git", "branch", "retraining")
    run(edited, "dvc", "config", "--unset", "core.remote")
    with pytest.raises(UserError) as error:
        results_commit.push(edited, ["retraining"], lambda sentence: None)
    assert "top-secret-9" not in str(error.value)
    assert "git push" in str(error.value)


def test_pictures_behind_a_link_that_git_tracks_are_never_removed(edited: Path) -> None:
    outside = edited.parent / "disk"
    (edited / "data").rename(outside)
    (edited / "data").symlink_to(outside)
    run(edited, "git", "rm", "-rq", "--cached", "data")
    run(edited, "git", "add", "data")
    run(edited, "git", "commit", "-qm", "the data are on another disk")
    with pytest.raises(UserError, match=r"data is a link that leads out of the checkout .* left alone"):
        retrained(edited, tag="ddpm-1")
    assert (outside / "raw/one.txt").read_text() == "one "


def test_a_file_inside_another_input_is_reached_by_that_one_and_stays(edited: Path) -> None:
    (edited / "data/raw/weights.pth").write_text("weights")
    folder = checkout.place(edited)
    assert folder is not None
    with checkout.entered(edited, folder):
        checkout.bring(edited, commit=head(edited), results_of=None)
        linked = checkout.link_inputs(edited, [Path("data/raw"), Path("data/raw/weights.pth")])
        assert linked == [Path("data/raw")]
        assert Path("data/raw/weights.pth").read_text() == "weights"
    assert (edited / "data/raw/weights.pth").read_text() == "weights"


def test_a_name_that_is_not_utf_8_is_an_uncommitted_file_as_another(edited: Path) -> None:
    Path(os.fsdecode(b"caf\xe9.txt")).write_text("latin")
    assert any(name.startswith("caf") for name in checkout.uncommitted(edited))
