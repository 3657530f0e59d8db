"""A retraining in a checkout of its own (`retrain.commit: branch`): where it works, and what becomes of its results."""

import re
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import pages
from prefect import get_run_logger
from unreported import End

from ddpm.errors import UserError
from ddpm.params import load as load_params
from ddpm.pipeline import checkout, dvc_lock, dvc_yaml, results_commit, workspace
from ddpm.pipeline.git import git
from ddpm.reporting.markdown import escaped

_OWNER = "the flow retrain"
_NAMED = 10
"""Uncommitted files that the page names."""


def retrain(decide: Callable[[], End]) -> End:
    """Call `decide` as owner of the folder in which this retraining works; return the end with a section about that.

    Raises InUseError while another retraining, or a `dvc repro` in the same folder, works.
    """
    project = Path.cwd()
    folder = checkout.place(project)
    if load_params().retrain.commit == "none" or folder is None:
        _refuse_beside(folder)
        with workspace.claim(_OWNER):
            end = decide()
        if load_params().retrain.commit == "none":
            return end
        return _with_section(end, ["in this folder, and nothing was committed: it is no git repository with dvc.yaml"])
    if _OWNER in (used := workspace.in_use() or ""):
        raise workspace.InUseError(used)
    commit, tip = git("rev-parse", "HEAD", folder=project), results_commit.tip(project)
    said = [f"in a checkout of its own at commit {commit[:12]}: {folder}"]
    if edited := checkout.uncommitted(project):
        more = f" and {len(edited) - _NAMED} more" if len(edited) > _NAMED else ""
        said.append(f"uncommitted edits are not part of it: {', '.join(edited[:_NAMED])}{more}")
    for sentence in said:
        get_run_logger().info(sentence)
    with checkout.entered(project, folder), workspace.claim(_OWNER):
        checkout.bring(project, commit=commit, results_of=tip)
        linked = checkout.link_inputs(project, _inputs())
        _restore()
        end = decide()
        if end.state.is_completed():
            said += _kept(project, base=commit, end=end, linked=linked)
    return _with_section(end, said)


def _refuse_beside(folder: Path | None) -> None:
    """Raise InUseError while a retraining works in the checkout, from before retrain.commit was changed."""
    if folder is not None and folder.is_dir():
        with chdir(folder):
            used = workspace.in_use()
        if used is not None:
            raise workspace.InUseError(used)


def _inputs() -> list[Path]:
    """Return the paths of files that only the project's folder has: what DVC compares, weights, pictures, shards."""
    params = load_params()
    weights = (params.features.inception_weights, params.features.dinov2_weights, params.features.clip_weights)
    others = (*weights, params.retrain.incoming, params.runtime.cache)
    key = params.signing.verify_key
    key = key if key is not None and not Path(key).exists() else None  # one that git keeps is here already
    return [*_compared(), *(Path(each) for each in (*others, key) if each)]


def _compared() -> list[Path]:
    """Return the paths that stages depend on and no stage makes, without code."""
    return dvc_yaml.inputs(data_path=load_params().data.path)


def _restore() -> None:
    """Take the recorded results out of the cache. Those that the cache does not have are made again by their stages."""
    if not dvc_lock.LOCK.exists():
        return
    try:
        results_commit.dvc("checkout", "--force")
    except UserError as error:
        get_run_logger().info(f"not every recorded result is in the cache, so some are made again ({error})")


def _kept(project: Path, *, base: str, end: End, linked: list[Path]) -> list[str]:
    """Commit, tag and push the results; return what was done as sentences. A remote that fails fails no retraining."""
    said: list[str] = []
    ran = any(state.name != "Unchanged" for state in end.tasks.values())
    registered = pages.registered() if pages.RUN.exists() else None
    made = None
    try:
        if ran:
            compared = [path for path in linked if path in _compared()]
            kept = results_commit.keep_inputs(project, compared) if results_commit.found_dvc_remote() else []
            made = results_commit.write(project, base=base, message=_message(end), inputs=kept)
        tip = made or results_commit.tip(project)
        if made:
            said.append(f"its results are commit {made[:12]} on the branch {results_commit.BRANCH}")
        refs = [f"refs/heads/{results_commit.BRANCH}"]
        if tip and registered and registered.version and registered.state_name() == "Completed: promoted":
            prefix = re.sub(r"[^A-Za-z0-9_-]+", "-", registered.version.name).strip("-") or "model"
            name = f"{prefix}-{registered.version.number}"
            if results_commit.tag(project, name, tip):
                said.append(f"the tag {name} brings this champion back: git checkout {name} && dvc pull")
            refs.append(f"refs/tags/{prefix}-*:refs/tags/{prefix}-*")
        if tip:
            results_commit.push(project, refs, said.append)
    except UserError as error:
        said.append(f"not all of it was kept: {error}")
        get_run_logger().warning(said[-1])
    return said


def _message(end: End) -> str:
    return f"Retraining: {end.state.name}\n\n{end.state.message or ''}"


def _with_section(end: End, said: list[str]) -> End:
    """Add the sentences to the page of the run."""
    section = "\n".join(["\n## Where it worked", "", *(f"- {escaped(sentence)}" for sentence in said)]) + "\n"
    own = [replace(page, text=page.text + section) if page.key == pages.KEY else page for page in end.pages]
    return replace(end, pages=own)
