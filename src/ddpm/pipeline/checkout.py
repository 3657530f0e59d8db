"""The checkout in which a retraining works: a repository of its own below `.state`, at a commit of the project's.

It borrows the objects of the project's repository (`objects/info/alternates`), so nothing in that one refers to it and
a killed retraining leaves nothing there. DVC's cache and the inputs that git does not keep are those of the project;
checkpoints and locks are its own. Only the owner of the checkout's lock (`workspace.claim`) may call `bring`.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from ddpm.errors import UserError
from ddpm.files import write_json
from ddpm.pipeline.git import found, git

FOLDER = Path(".state/retraining")
"""The checkout, in the project's folder."""
PROJECT_VARIABLE = "DDPM_PROJECT"
"""Environment variable with the project's folder, whose MLflow store the stages in the checkout use."""
RESULTS = ("dvc.lock", "reports")
_LINKED = Path(".state/linked.json")


def place(project: Path) -> Path | None:
    """Return the folder that is the project's in the checkout.

    None if the project is not in a git repository whose last commit has its dvc.yaml, as in an unpacked archive.
    """
    prefix = found("rev-parse", "--show-prefix", folder=project)
    if prefix is None or found("cat-file", "-e", "HEAD:./dvc.yaml", folder=project) is None:
        return None
    return project / FOLDER / prefix


def uncommitted(project: Path) -> list[str]:
    """Return the tracked files whose content differs from the last commit, and new files that git does not ignore."""
    lines = git("status", "--porcelain", "-z", "--", ".", folder=project).split("\0")
    return [line.strip().split(" ", 1)[-1].strip() for line in lines if line.strip()]


def bring(project: Path, *, commit: str, results_of: str | None) -> None:
    """Make the working folder, which is `place(project)`, the project at this commit, with its own checkpoints.

    `results_of` is another commit, whose dvc.lock and metrics are used where nobody has changed dvc.lock since it.
    """
    _unlink_inputs()
    top = project / FOLDER
    try:
        _checkout(project, top, commit)
    except UserError:  # a repository that a kill or a lost object has damaged; it holds nothing of its own
        shutil.rmtree(top / ".git", ignore_errors=True)
        _checkout(project, top, commit)
    if results_of is not None and _lock_is_older(project, commit, results_of):
        for name in RESULTS:
            if found("cat-file", "-e", f"{results_of}:./{name}", folder=project) is not None:
                git("restore", f"--source={results_of}", "--worktree", "--", name, folder=Path.cwd(), **own(project))
    _share_dvc(project)


def link_inputs(project: Path, inputs: Iterable[Path]) -> list[Path]:
    """Put links to the project's inputs in place of the checkout's; return those that there are, relative to both.

    Raises UserError for a relative path that leaves the project, also by a link above it.
    """
    linked = []
    for path in inputs:
        if path.is_absolute() or urlsplit(str(path)).scheme:
            continue
        if ".." in path.parts:
            raise UserError(
                f"params.yaml names {path}, which a checkout below {FOLDER} does not reach; give an absolute path, or "
                "move it into the project"
            )
        if (project / path).exists():
            linked.append(path)
    # What lies inside another input is there by that one's link.
    linked = [path for path in dict.fromkeys(linked) if not set(path.parents) & set(linked)]
    write_json(_LINKED, {"paths": [str(path) for path in linked]})
    for path in linked:
        _remove(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(project / path)
    return linked


@contextmanager
def entered(project: Path, folder: Path) -> Iterator[None]:
    """Work in `folder`, `place(project)`, within the block: with the project's store and the checkout's code."""
    (folder / ".state").mkdir(parents=True, exist_ok=True)
    code = os.pathsep.join(filter(None, [str(folder / "src"), os.environ.get("PYTHONPATH")]))
    changed = {PROJECT_VARIABLE: str(project), "PYTHONPATH": code}
    store = os.environ.get("MLFLOW_TRACKING_URI", "")
    if store.startswith("sqlite:///") and not store.startswith("sqlite:////"):
        changed["MLFLOW_TRACKING_URI"] = f"sqlite:///{project / store.removeprefix('sqlite:///')}"
    before = {name: os.environ.get(name) for name in [*changed, "DVC_ROOT"]}
    os.environ.update(changed)
    os.environ.pop("DVC_ROOT", None)
    try:
        with chdir(folder):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def own(project: Path) -> dict[str, str]:
    """Return the environment with which git works in the checkout alone.

    If its repository is damaged, git would otherwise find that of the project above it, and change the edited files.
    """
    top = project / FOLDER
    return {"GIT_DIR": str(top / ".git"), "GIT_WORK_TREE": str(top)}


def _checkout(project: Path, top: Path, commit: str) -> None:
    here = own(project)
    if not (top / ".git").is_dir():
        git("init", "--quiet", folder=top, **here)
    for lock in (top / ".git").rglob("*.lock"):  # of a git that was killed: the owner of the checkout is alone
        lock.unlink()
    objects = (project / git("rev-parse", "--git-path", "objects", folder=project)).resolve()
    (top / ".git/objects/info").mkdir(parents=True, exist_ok=True)
    (top / ".git/objects/info/alternates").write_text(f"{objects}\n")
    git("checkout", "--quiet", "--force", "--detach", commit, folder=top, **here)
    git("clean", "--quiet", "-ffd", folder=top, **here)


def _lock_is_older(project: Path, commit: str, other: str) -> bool:
    """Return whether dvc.lock of `commit` is the one from which `other` started, so that the other's is newer."""
    base = found("merge-base", commit, other, folder=project)
    return base is not None and found("diff", "--quiet", base, commit, "--", "dvc.lock", folder=project) is not None


def _share_dvc(project: Path) -> None:
    """Let DVC use the project's cache and remotes; a path in its configuration is relative to the project's."""
    from dvc.config import Config
    from dvc.repo import Repo

    with Repo(str(project)) as repo:
        cache = repo.cache.local.path
    of_project = Config(dvc_dir=str(project / ".dvc"))
    with Config(dvc_dir=str(Path.cwd() / ".dvc")).edit("local", validate=False) as own:
        own.clear()
        for level in ("repo", "local"):
            for section, values in of_project.load_one(level).items():
                own.setdefault(section, {}).update(values)
        own.setdefault("cache", {})["dir"] = cache


def _unlink_inputs() -> None:
    with suppress(OSError, ValueError, TypeError, KeyError):
        for name in json.loads(_LINKED.read_text())["paths"]:
            _remove(Path(name))


def _remove(path: Path) -> None:
    """Remove a link or a copy in the checkout; what a link points to stays.

    Raises UserError if a folder above it is a link that leads out of the checkout, where the person's own files are.
    """
    if not path.parent.resolve().is_relative_to(Path.cwd().resolve()):
        raise UserError(
            f"{path.parent} is a link that leads out of the checkout below {FOLDER}, so {path} was left alone; name "
            "the place that the link leads to in params.yaml, or set retrain.commit to none"
        )
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
