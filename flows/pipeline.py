"""The flow `pipeline`: runs the stages of dvc.yaml in order as tasks, with retries, live logs and pages of results.

`python flows/pipeline.py` runs it with the Prefect server of PREFECT_API_URL, or with a temporary server.
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
from ddpm.reporting import markdown


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


@flow
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
        retries: Number of times that a stage that crashed or was killed starts again; training continues from its last
            checkpoint. An error that a person must correct is not retried.
        retry_delay_seconds: Time before each retry.
        timeout_seconds: Longest time of a stage; after it the stage is stopped and the flow fails. None: no limit.
        silent_seconds: Longest time that dvc may print nothing while no stage runs; after it dvc is stopped and the
            flow fails, because dvc may wait for a disk that does not answer. Hashing new data prints nothing either.
            None: no limit.
    """
    redact_logs()
    unreported.report_earlier_runs()
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
    registered = pages.registered() if pages.RUN.exists() else None
    ran = [stage for stage, state in ends.items() if state.name != "Unchanged"]
    done: State = Completed(message=f"ran {', '.join(ran)}" if ran else "nothing had changed")
    return End(done, [*_result(registered), *_links(registered)], ends)


def _result(registered: pages.Registered | None) -> list[Page]:
    result = []
    measured = pages.read_metrics()
    if measured:
        result.append(Page("metrics", pages.metrics(measured, registered), "Metrics, compared with the champion's"))
    if pages.GRID.exists():
        result.append(Page("samples", markdown.embedded(pages.GRID), "Samples of the model"))
    if registered:
        result.append(Page("gate", pages.decision(registered), "Decision of the gate"))
    return result


def _links(registered: pages.Registered | None) -> list[Page]:
    links = pages.links(registered)
    return [Page("links", links, "More details")] if links else []


if __name__ == "__main__":
    import command_line

    command_line.run(pipeline)
