"""The flow `search`: trains trials with other settings, stops hopeless ones, gives the best settings to the gate.

`python flows/search.py --space FILE --trials 10` runs it in this process, and continues a search that was stopped. The
trials are measured on a part of the training images. The best settings are trained again on all training images, and
that model is the one candidate that the gate compares with the champion, on held-out images.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("DO_NOT_TRACK", "1")  # prefect reads it when it is imported

import dvc_stage
import pages
import stale_runs
import unreported
from pipeline import add_to_name, begin, run_stage, start_time
from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from search_page import page_of
from search_trials import Trials, measured_by
from unreported import End

from ddpm import search_space
from ddpm.errors import UserError
from ddpm.pipeline.workspace import InUseError, claim
from ddpm.searching import workspace
from ddpm.searching.study import closing, require_optuna

FAILURES = 3
"""So many trials that fail one after the other end the search, because the next one would fail, too."""


@flow(flow_run_name=start_time, on_crashed=[stale_runs.after_crash], on_cancellation=[stale_runs.after_cancellation])
def search(
    space: str,
    trials: int = 10,
    retries: int = 2,
    retry_delay_seconds: float = 10,
    timeout_seconds: float | None = None,
    silent_seconds: float | None = 3600,
) -> State:
    """Search settings, train the best ones on all training images, and let the gate decide about that model.

    The flow owns the workspace from its start to its end. A search of the same space, parameters, data and code
    continues where it was stopped: a trial that was killed goes on from its last checkpoint.

    Args:
        space: The YAML file with the keys of params.yaml that may vary, each with a range or with choices.
        trials: Number of trials that are measured or stopped as hopeless. Those of earlier runs of this search count;
            trials that failed do not.
        retries: Number of times that a stage that crashed, was killed or did not reach MLflow starts again; training
            continues from its last checkpoint.
        retry_delay_seconds: Time before each retry.
        timeout_seconds: Longest time of a stage; after it the stage is stopped and its trial fails. None: no limit.
        silent_seconds: Longest time that dvc may print nothing while no stage runs; after it dvc is stopped.
            None: no limit.
    """
    begin()
    options = {
        "retries": retries,
        "retry_delay_seconds": retry_delay_seconds,
        "timeout_seconds": timeout_seconds,
        "silent_seconds": silent_seconds,
    }
    try:
        with claim("the flow search"), _store_of_project():
            dvc_stage.look()
            end = _search(Path(space), trials, **options)
    except InUseError as error:
        end = End(Failed(name="Refused", message=str(error)))
    except UserError as error:
        end = End(Failed(message=str(error)))
    return unreported.conclude(end)


@contextmanager
def _store_of_project() -> Iterator[None]:
    """Let stages in the clones of a search use the project's MLflow store, as DVC's own temporary folders do."""
    before = os.environ.get("DVC_ROOT")
    os.environ["DVC_ROOT"] = str(Path.cwd())
    try:
        yield
    finally:
        os.environ.pop("DVC_ROOT")
        if before is not None:
            os.environ["DVC_ROOT"] = before


def _search(space: Path, number: int, **options: float | None) -> End:
    if number < 1:
        raise UserError(f"trials is {number}, but a search needs at least 1; name 1 or more")
    require_optuna()
    workspace.require_commit()
    known = search_space.read(space, Path("params.yaml"))
    add_to_name(f"{number} trials of {space.name}")
    stages = dvc_stage.stages()
    of_model = stages[stages.index("train") :]
    ends, failed = _run_stages(stages[: -len(of_model)], **options)
    if failed:
        return End(failed, [], ends)
    with Trials(known, options) as trials, closing(trials.study):
        get_run_logger().info(f"search in {trials.folder}, measured on {trials.facts.test} of the training images")
        failures = 0
        while trials.left(number) and failures < FAILURES:
            state = trials.run_next()
            failures = failures + 1 if state.is_failed() else 0
        page = page_of(trials)
        if failures:
            sentence = f"{failures} trials failed one after the other; the last one: {state.message}"
            return End(Failed(message=sentence), [page], ends)
        best = trials.finish()
        if best is None:
            return End(Failed(message="no trial was measured; correct the space of the search"), [page], ends)
        of_candidate, end = _candidate(trials, of_model, **options)
        return End(end.state, [page_of(trials, end.state), *end.pages], ends | of_candidate)


def _candidate(trials: Trials, of_model: list[str], **options: float | None) -> tuple[dict[str, State], End]:
    """Train the best settings on all training images, and let the gate decide; return how that ended."""
    with trials.candidate(of_model):
        ends, failed = _run_stages(of_model, **options)
        if failed:
            return ends, End(failed)
        registered = pages.registered()
        decision = registered.sentence() if registered.version else "it is not registered"
        name = registered.state_name() if registered.version else "Completed"
        of_result = pages.of_result(Completed(message=decision), [], registered)
    trials.save_candidate(of_model)
    sentence = f"{measured_by(trials)}; trained on all training images, {decision}; settings in {trials.best_file}"
    return ends, End(Completed(name=name, message=sentence), of_result)


def _run_stages(stages: list[str], **options: float | None) -> tuple[dict[str, State], State | None]:
    """Run stages in the working folder; return their states, and the state of a flow whose stage failed."""
    ends: dict[str, State] = {}
    limits = {name: options[name] for name in ("timeout_seconds", "silent_seconds")}
    again: dict[str, Any] = {name: options[name] for name in ("retries", "retry_delay_seconds")}
    for stage in stages:
        run = run_stage.with_options(name=stage, task_run_name=stage, **again)
        ends[stage] = state = run(stage, force=False, **limits, return_state=True)
        if not state.is_completed():
            return ends, Failed(name=f"Failed: {stage}", message=state.message)
    return ends, None


def main() -> None:
    import command_line

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", required=True, help="YAML file with keys of params.yaml, each with a range")
    parser.add_argument("--trials", type=int, default=10, help="number of trials in all (10)")
    arguments = parser.parse_args()
    command_line.run(search, space=arguments.space, trials=arguments.trials)


if __name__ == "__main__":
    main()
