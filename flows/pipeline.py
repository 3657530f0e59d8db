"""The stages of dvc.yaml as tasks, in order: retried, with their output live, and with what a person wants to see.

`python flows/pipeline.py` runs it on the server of PREFECT_API_URL, or on a temporary one.
"""

import os

os.environ.setdefault("DO_NOT_TRACK", "1")  # prefect reads it when it is imported

import dvc_stage
import pages
import unreported
from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed, Failed
from prefect.tasks import Task
from unreported import End, Page

from ddpm.errors import UserError
from ddpm.pipeline.workspace import InUseError, claim
from ddpm.redaction import redact_logs


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
    unreported.tell()
    try:
        with claim("the flow pipeline"):
            dvc_stage.look()
            limits = {"timeout_seconds": timeout_seconds, "silent_seconds": silent_seconds}
            end = _run_all(force=force or [], retries=retries, retry_delay_seconds=retry_delay_seconds, limits=limits)
    except InUseError as error:
        end = End(Failed(name="Refused", message=str(error)))
    except UserError as error:
        end = End(Failed(message=str(error)))
    return unreported.conclude(end)


def _run_all(*, force: list[str], retries: int, retry_delay_seconds: float, limits: dict[str, float | None]) -> End:
    ends: dict[str, State] = {}
    for stage in dvc_stage.stages():
        named = run_stage.with_options(
            name=stage, task_run_name=stage, retries=retries, retry_delay_seconds=retry_delay_seconds
        )
        state = ends[stage] = named(stage, force=stage in force, **limits, return_state=True)
        if not state.is_completed():
            return End(Failed(message=state.message), _links(None), ends)
    standing = pages.registered() if pages.RUN.exists() else None
    ran = [stage for stage, state in ends.items() if state.name != "Unchanged"]
    done: State = Completed(message=f"ran {', '.join(ran)}" if ran else "nothing had changed")
    return End(done, [*_result(standing), *_links(standing)], ends)


def _result(standing: pages.Registered | None) -> list[Page]:
    found = []
    measured = pages.read_metrics()
    if measured:
        found.append(Page("metrics", pages.metrics(measured, standing), "Against the champion"))
    if pages.GRID.exists():
        found.append(Page("samples", pages.image(pages.GRID), "What the model draws"))
    if standing:
        found.append(Page("gate", pages.decision(standing), "What the gate said"))
    return found


def _links(standing: pages.Registered | None) -> list[Page]:
    found = pages.links(standing)
    return [Page("links", found, "Where to look further")] if found else []


if __name__ == "__main__":
    import command_line

    command_line.run(pipeline)
