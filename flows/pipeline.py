"""The stages of dvc.yaml as tasks, in order: retried, with their output live, and with what a person wants to see.

`python flows/pipeline.py` runs it on the server of PREFECT_API_URL, or on a temporary one.
"""

import os

os.environ.setdefault("DO_NOT_TRACK", "1")  # prefect reads it when it is imported

import dvc_stage
import pages
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed, Failed
from prefect.tasks import Task

from ddpm.errors import UserError
from ddpm.redaction import redact_logs
from ddpm.workspace import InUseError, claim


def _may_pass_next_time(task: Task, task_run: TaskRun, state: State) -> bool:
    return isinstance(state.data, dvc_stage.Outcome) and state.data.try_again


@task(retry_condition_fn=_may_pass_next_time)
def run_stage(stage: str, *, force: bool, timeout_seconds: float | None, silent_seconds: float | None) -> State:
    """One DVC stage. Its state's message is the stage's own sentence."""
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


@flow
def pipeline(
    force: list[str] | None = None,
    retries: int = 2,
    retry_delay_seconds: float = 10,
    timeout_seconds: float | None = None,
    silent_seconds: float | None = 3600,
) -> State:
    """Every stage of dvc.yaml whose dependencies have changed, in order.

    Args:
        force: Stages to run though nothing has changed.
        retries: How often a stage that crashed or was killed is started again; training goes on where it was.
            An error that a person has to mend is not retried.
        retry_delay_seconds: How long to wait before that.
        timeout_seconds: A stage that takes longer is stopped, and the flow fails. None: no limit.
        silent_seconds: A dvc that says nothing for longer while no stage runs is stopped, and the flow fails: it may
            wait for a disk that does not answer. Hashing new data is silent, too. None: no limit.
    """
    redact_logs()
    try:
        with claim("the flow pipeline"):
            dvc_stage.look()
            limits = {"timeout_seconds": timeout_seconds, "silent_seconds": silent_seconds}
            return _run_all(force=force or [], retries=retries, retry_delay_seconds=retry_delay_seconds, limits=limits)
    except InUseError as error:
        return Failed(name="Refused", message=str(error))
    except UserError as error:
        return Failed(message=str(error))


def _run_all(*, force: list[str], retries: int, retry_delay_seconds: float, limits: dict[str, float | None]) -> State:
    ran = []
    for stage in dvc_stage.stages():
        named = run_stage.with_options(
            name=stage, task_run_name=stage, retries=retries, retry_delay_seconds=retry_delay_seconds
        )
        state = named(stage, force=stage in force, **limits, return_state=True)
        if not state.is_completed():
            _show_links(None)
            return Failed(message=state.message)
        if state.name != "Unchanged":
            ran.append(stage)
    standing = pages.registered() if pages.RUN.exists() else None
    _show_result(standing)
    _show_links(standing)
    return Completed(message=f"ran {', '.join(ran)}" if ran else "nothing had changed")


def _show_result(standing: pages.Registered | None) -> None:
    measured = pages.read_metrics()
    if measured:
        create_markdown_artifact(pages.metrics(measured, standing), key="metrics", description="Against the champion")
    if pages.GRID.exists():
        create_markdown_artifact(pages.image(pages.GRID), key="samples", description="What the model draws")
    if standing:
        create_markdown_artifact(pages.decision(standing), key="gate", description="What the gate said")


def _show_links(standing: pages.Registered | None) -> None:
    if found := pages.links(standing):
        create_markdown_artifact(found, key="links", description="Where to look further")


if __name__ == "__main__":
    import command_line

    command_line.run(pipeline)
