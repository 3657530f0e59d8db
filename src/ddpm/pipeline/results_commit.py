"""The results of a retraining as a commit of the project's repository, on a branch, with a tag, and pushed.

Everything goes through an index of its own: neither the project's files nor its index are touched.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ddpm.errors import UserError
from ddpm.pipeline.checkout import FOLDER, RESULTS, own
from ddpm.pipeline.git import found, git
from ddpm.redaction import redacted

BRANCH = "retraining"
_INDEX = ".git/results-index"
_POLL_SECONDS = 0.5


def tip(project: Path) -> str | None:
    """Return the commit of the branch; None if there is no branch yet. Raises UserError if the branch is checked out.

    Its commits would then appear as changes that somebody made in that folder.
    """
    ref = f"branch refs/heads/{BRANCH}"
    if ref in git("worktree", "list", "--porcelain", folder=project).splitlines():
        raise UserError(
            f"the branch {BRANCH} is checked out in {project} or a worktree of it, so a retraining cannot commit to "
            "it; switch to another branch there"
        )
    return found("rev-parse", "--verify", "--quiet", f"refs/heads/{BRANCH}", folder=project)


def write(project: Path, *, base: str, message: str, inputs: Sequence[Path] = ()) -> str | None:
    """Commit the results in the checkout (the working folder) to the branch; return the commit, None if nothing is new.

    The commit has the files of `base`, the commit at which the retraining worked, and its results: dvc.lock, reports,
    and for each of `inputs` the `.dvc` file in place of the input's own files.
    """
    before = tip(project)
    top = project / FOLDER
    common = (project / git("rev-parse", "--git-common-dir", folder=project)).resolve()
    here = {"GIT_DIR": str(common), "GIT_WORK_TREE": str(top), "GIT_INDEX_FILE": str(top / _INDEX)}
    for name in (_INDEX, f"{_INDEX}.lock"):
        (top / name).unlink(missing_ok=True)
    folder = Path.cwd()
    git("read-tree", base, folder=folder, **here)
    for path in inputs:
        git("rm", "-r", "--quiet", "--cached", "--ignore-unmatch", "--", str(path), folder=folder, **here)
        git("add", "--force", "--", f"{path}.dvc", str(path.parent / ".gitignore"), folder=folder, **here)
    git("add", "--", *(name for name in RESULTS if Path(name).exists()), folder=folder, **here)
    tree = git("write-tree", folder=folder, **here)
    if before is not None and tree == git("rev-parse", f"{before}^{{tree}}", folder=project):
        return None
    if before is None and tree == git("rev-parse", f"{base}^{{tree}}", folder=project):
        return None
    parents = [word for commit in _parents(project, before, base) for word in ("-p", commit)]
    made = git("commit-tree", tree, *parents, "-m", redacted(message), folder=project, **_author(project))
    git("update-ref", "-m", "retraining", f"refs/heads/{BRANCH}", made, before or "0" * 40, folder=project)
    return made


def tag(project: Path, name: str, commit: str) -> bool:
    """Tag the commit; return whether there was no such tag. A tag that exists stays."""
    if found("rev-parse", "--verify", "--quiet", f"refs/tags/{name}", folder=project) is not None:
        return False
    git("update-ref", f"refs/tags/{name}", commit, folder=project)
    return True


def keep_inputs(project: Path, linked: Sequence[Path]) -> list[Path]:
    """Put those of the linked inputs that git does not have as a whole into DVC's cache; return them.

    The links become folders of the same files meanwhile, because DVC adds nothing behind a link.
    """
    kept = []
    for path in linked:
        of_git = set(git("ls-files", "--", str(path), folder=Path.cwd(), **own(project)).splitlines())
        if {str(each.relative_to(project)) for each in _files(project / path)} <= of_git:
            continue
        # DVC adds nothing that git has.
        git("rm", "-r", "-q", "--cached", "--ignore-unmatch", "--", str(path), folder=Path.cwd(), **own(project))
        path.unlink()
        if (project / path).is_dir():
            shutil.copytree(project / path, path, copy_function=_link_or_copy)
        else:
            _link_or_copy(str(project / path), str(path))
        dvc("add", "--no-relink", str(path))
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(project / path)
        kept.append(path)
    return kept


def push(project: Path, refs: Sequence[str], report: Callable[[str], None]) -> None:
    """Push the files to DVC's default remote and the refs to git's, where there are remotes; `report` gets sentences.

    Files go first, so that a tag that others see never names files that they cannot pull. Raises UserError.
    """
    if found_dvc_remote():
        dvc("push")
        report("dvc push: the files are in DVC's remote")
    if (remote := _git_remote(project)) is not None:
        git("push", "--quiet", "--no-verify", remote, *refs, folder=project)
        report(f"git push: {', '.join(refs)} {'is' if len(refs) == 1 else 'are'} in the remote {remote}")


def found_dvc_remote() -> bool:
    """Return whether DVC in the working folder has a default remote."""
    from dvc.config import Config

    return bool(Config(dvc_dir=str(Path(".dvc").resolve())).get("core", {}).get("remote"))


def dvc(*words: str) -> None:
    """Run dvc in the working folder and end it with this process. Raises UserError with its last line if it fails."""
    environment = {"DVC_NO_ANALYTICS": "1"} | os.environ
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "--wait-for-lock", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = process.communicate()[1]
    finally:
        while process.poll() is None:
            process.terminate()
            time.sleep(_POLL_SECONDS)
    if process.returncode != 0:
        errors = [line for line in said.splitlines() if "ERROR" in line] or said.splitlines() or ["no error printed"]
        raise UserError(f"dvc {words[0]} failed ({errors[-1].partition('ERROR: ')[2] or errors[-1]}); run it by hand")


def _parents(project: Path, before: str | None, base: str) -> list[str]:
    """Return the parents of a commit: the branch and `base`, without one that the other one already contains."""
    if before is None or found("merge-base", "--is-ancestor", before, base, folder=project) is not None:
        return [base]
    if found("merge-base", "--is-ancestor", base, before, folder=project) is not None:
        return [before]
    return [before, base]


def _author(project: Path) -> dict[str, str]:
    name = found("config", "user.name", folder=project) or "ddpm retraining"
    email = found("config", "user.email", folder=project) or "ddpm@localhost"
    return {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", name), ("EMAIL", email))
    }


def _git_remote(project: Path) -> str | None:
    """Return `origin`, or else the only remote; None without one."""
    remotes = git("remote", folder=project).split()
    return "origin" if "origin" in remotes else remotes[0] if len(remotes) == 1 else None


def _files(path: Path) -> list[Path]:
    return [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]


def _link_or_copy(source: str, target: str) -> str:
    """Give the file a second name; copy it where that is another disk."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
    return target
