"""The flow `pipeline`: runs the stages of dvc.yaml in order as tasks, with retries, live logs and a page of results.

`python flows/pipeline.py` runs it with the Prefect server of PREFECT_API_URL, or with a temporary server.
"""

import os
from datetime import datetime

os.environ.setdefault("DO_NOT_TRACK", "1")  # prefect reads it when it is imported

import dvc_stage
import httpx
import pages
import stale_runs
import unreported
from prefect import flow, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import PrefectException
from prefect.states import Completed, Failed
from prefect.tasks import Task
from unreported import End

from ddpm.errors import UserError
from ddpm.pipeline.workspace import InUseError, claim
from ddpm.redaction import redact_logs


def _may_pass_next_time(task: Task, task_run: TaskRun, state: State) -> bool:
    return isinstance(state.data, dvc_stage.Outcome) and state.data.try_again


@task(retry_condition_fn=_may_pass_next_time)
def run_stage(stage: str, *, force: bool, timeout_seconds: float | None, silent_seconds: float | None) -> State:
    """Run one DVC stage; the message of the state is the stage's own sentence."""
    logger = get_run_logger()

    def report(line: str) -> None:
        (logger.error if line.startswith(("error: ", "ERROR: ")) else logger.info)(line)

    outcome = dvc_stage.run(
        stage, force=force, timeout_seconds=timeout_seconds, silent_seconds=silent_seconds, report=report
    )
    message = f"{stage}: {outcome.message}"
    if not outcome.ok:
        return Failed(message=message, data=outcome)
    return Completed(message=message, name="Completed" if outcome.ran else "Unchanged")


def start_time() -> str:
    """Return the name of a run that starts now; the reason is added when it is known."""
    return f"{datetime.now():%Y-%m-%d %H:%M}"


@flow(flow_run_name=start_time, on_crashed=[stale_runs.after_crash], on_cancellation=[stale_runs.after_cancellation])
def pipeline(
    force: list[str] | None = None,
    retries: int = 2,
    retry_delay_seconds: float = 10,
    timeout_seconds: float | None = None,
    silent_seconds: float | None = 3600,
) -> State:
    """Run every stage of dvc.yaml whose dependencies have changed, in order.

    Args:
        force: Stages that run even if nothing has changed.
        retries: Number of times that a stage that crashed, was killed or did not reach MLflow starts again; training
            continues from its last checkpoint. An error that a person must correct is not retried.
        retry_delay_seconds: Time before each retry.
        timeout_seconds: Longest time of a stage; after it the stage is stopped and the flow fails. None: no limit.
        silent_seconds: Longest time that dvc may print nothing while no stage runs; after it dvc is stopped and the
            flow fails, because dvc may wait for a disk that does not answer. Hashing new data prints nothing either.
            None: no limit.
    """
    begin()
    try:
        with claim("the flow pipeline"):
            dvc_stage.look(get_run_logger().warning)
            add_to_name("all stages")
            end = run_all(
                [],
                force=force or [],
                retries=retries,
                retry_delay_seconds=retry_delay_seconds,
                timeout_seconds=timeout_seconds,
                silent_seconds=silent_seconds,
            )
    except InUseError as error:
        end = End(Failed(name="Refused", message=str(error)))
    except UserError as error:
        end = End(Failed(message=str(error)))
    return unreported.conclude(end)


def begin() -> None:
    """Start a flow run: write down its process, and report or close earlier runs whose end the server missed."""
    redact_logs()
    stale_runs.sign(unreported.this_run())
    unreported.report_earlier_runs()
    try:
        stale_runs.close_stale(get_run_logger().warning)
    except (httpx.HTTPError, PrefectException) as error:  # a server that restarts must not end the run
        get_run_logger().warning(f"runs that no process works on were not looked for ({error})")


def add_to_name(reason: str) -> None:
    """Add the reason of this run to its name in Prefect."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_name(unreported.this_run(), f"{start_time()} {reason}")


def run_all(
    reasons: list[str], *, force: list[str], retries: int, retry_delay_seconds: float, **limits: float | None
) -> End:
    """Run all stages as tasks of this flow run, up to the first that fails, and return the end of the run."""
    ends: dict[str, State] = {}
    for stage in dvc_stage.stages():
        named = run_stage.with_options(
            name=stage, task_run_name=stage, retries=retries, retry_delay_seconds=retry_delay_seconds
        )
        state = ends[stage] = named(stage, force=stage in force, **limits, return_state=True)
        if not state.is_completed():
            failed: State = Failed(name=f"Failed: {stage}", message=state.message)
            return End(failed, [pages.of_failure(failed, reasons)], ends)
    ran = [stage for stage, state in ends.items() if state.name != "Unchanged"]
    registered = pages.registered() if pages.RUN.exists() else None
    done = _done(ran, registered)
    return End(done, pages.of_result(done, reasons, registered), ends)


def _done(ran: list[str], registered: pages.Registered | None) -> State:
    """Return the state of a run whose stages all completed; its name is the decision on the model."""
    if not ran:
        return nothing_changed()
    if registered is None or registered.version is None:
        return Completed(message=f"ran {', '.join(ran)}")
    if "register" not in ran:
        return Completed(name="Completed: same model", message=f"ran {', '.join(ran)}, which made no other model")
    return Completed(name=registered.state_name(), message=registered.sentence())


def nothing_changed(more: str = "") -> State:
    """Return the state of a run that had nothing to do; `more` is a further sentence of its message."""
    message = "nothing has changed, so nothing was done"
    return Completed(name="Completed: nothing changed", message=f"{message}; {more}" if more else message)


if __name__ == "__main__":
    import command_line

    command_line.run(pipeline)
