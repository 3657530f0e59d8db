"""A working folder of a search: a clone of the project at its commit, with the DVC cache and the files it needs.

Stages run there as in the project, so that DVC records what each trial read, and leave the project's files alone. What
is recorded there as a DVC experiment comes back by git.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from itertools import pairwise
from pathlib import Path
from typing import Any

from ddpm.errors import UserError
from ddpm.pipeline import running_list
from ddpm.redaction import redacted
from ddpm.yaml_file import read as read_yaml


def make(folder: Path) -> None:
    """Clone the project in the working folder, with its uncommitted changes, unless the clone is there already.

    Raises UserError if the project is not a git repository with a commit: a DVC experiment belongs to a commit.
    """
    if (folder / ".git").is_dir() and (folder / ".dvc/config.local").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    require_commit()
    changes = _run("git", "diff", "--binary", "HEAD")
    _run("git", "clone", "--quiet", "--shared", "--no-tags", str(Path.cwd()), str(folder))
    if changes:
        _run("git", "apply", "--whitespace=nowarn", "-", folder=folder, text=changes)
    cache = _run(*_DVC, "cache", "dir").strip()
    _run(*_DVC, "config", "--local", "cache.dir", cache, folder=folder)


def require_commit() -> None:
    """Raise UserError unless the working folder is the root of a git repository that has a commit."""
    try:
        root = Path(_run("git", "rev-parse", "--show-toplevel").strip())
        _run("git", "rev-parse", "--verify", "--quiet", "HEAD")
    except UserError:
        root = None
    if root is None or root != Path.cwd().resolve():
        raise UserError(
            f"{Path.cwd()} is not a git repository with a commit, to which the DVC experiments of a search belong; "
            "run `git init && git add --all && git commit --message start` in the project's folder"
        )


def bring(folder: Path, paths: list[Path]) -> None:
    """Bring these files and folders of the project into the clone, by hard links where the disk allows it."""
    for path in paths:
        to = folder / path
        if path.is_dir():
            shutil.rmtree(to, ignore_errors=True)
            shutil.copytree(path, to, copy_function=_link)
        else:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.unlink(missing_ok=True)
            _link(str(path), str(to))


def read_by(stages: list[str], pipeline: dict[str, Any]) -> list[Path]:
    """Return what exists of all that these stages read and none of them writes: files, not code.

    `pipeline` is the content of dvc.yaml.
    """
    own = set(written_by(stages, pipeline))
    found: set[str] = set()
    for stage in stages:
        words = pipeline["stages"][stage]["cmd"].split()
        options = [value for option, value in pairwise(words) if option.startswith("--")]
        found |= {*options, *(dep for dep in pipeline["stages"][stage].get("deps", []) if not dep.startswith("src/"))}
    paths = [Path(path) for path in sorted(found - {str(path) for path in own})]
    return [path for path in paths if path.exists() and not path.parts[0].startswith(".")]


def written_by(stages: list[str], pipeline: dict[str, Any]) -> list[Path]:
    """Return the outputs, metrics and plots of these stages."""
    entries = [
        entry
        for stage in stages
        for kind in ("outs", "metrics", "plots")
        for entry in pipeline["stages"][stage].get(kind, [])
    ]
    return [Path(next(iter(entry)) if isinstance(entry, dict) else entry) for entry in entries]


def clear(folder: Path, stages: list[str]) -> None:
    """Remove from the clone what these stages wrote, and their state, and take back what DVC recorded of them."""
    for path in written_by(stages, read_yaml(folder / "dvc.yaml")):
        if (folder / path).is_dir():
            shutil.rmtree(folder / path)
        else:
            (folder / path).unlink(missing_ok=True)
    for state in ("train", "sample"):
        shutil.rmtree(folder / ".state" / state, ignore_errors=True)
    if Path("dvc.lock").exists():
        shutil.copyfile("dvc.lock", folder / "dvc.lock")


def save(folder: Path, name: str, stages: list[str], *, report: Callable[[str], None]) -> None:
    """Record the clone's params.yaml, and what these stages made, as a DVC experiment of the project.

    An experiment of this name is replaced. `report` is told what a killed dvc left and was removed.
    """
    with chdir(folder):
        running_list.mend(report)  # a training that was stopped leaves locks of its dvc
    _run(*_DVC, "exp", "save", "--force", "--name", name, *stages, folder=folder)
    refs = _run("git", "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{name}", folder=folder).split()
    _run("git", "fetch", "--quiet", "--no-tags", str(folder), *(f"+{ref}:{ref}" for ref in refs))


_DVC = (sys.executable, "-m", "dvc")


def _run(*words: str, folder: Path | None = None, text: str | None = None) -> str:
    environment = {"DVC_NO_ANALYTICS": "1"} | os.environ
    given = None if text is None else text.encode("utf-8", "surrogateescape")  # bytes: a patch keeps its line ends
    done = subprocess.run(words, cwd=folder, env=environment, input=given, capture_output=True)
    if done.returncode:
        command = " ".join(["dvc", *words[3:]] if words[: len(_DVC)] == _DVC else words)
        said = redacted(" ".join((done.stderr or done.stdout).decode("utf-8", "replace").split()))[-500:]
        raise UserError(
            f"`{command}` in {folder or Path.cwd()} failed ({said}); correct that and start the search again"
        )
    return done.stdout.decode("utf-8", "surrogateescape")


def _link(source: str, to: str) -> str:
    try:
        os.link(source, to)
    except OSError:
        shutil.copyfile(source, to)
    return to
