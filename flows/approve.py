"""The flow `approve`: a person approves or rejects a version that waits, by a form on Prefect's page.

`ddpm approve` does the same without Prefect.
"""

import os
from typing import Annotated, Literal

os.environ.setdefault("DO_NOT_TRACK", "1")  # prefect reads it when it is imported

import pages
import stale_runs
import unreported
from pipeline import add_to_name, begin, start_time
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field
from unreported import End

from ddpm.errors import UserError
from ddpm.params import load as load_params
from ddpm.promotion import approval
from ddpm.tracking.mlflow_registry import MlflowRegistry

Person = Annotated[str, Field(min_length=1, max_length=100, pattern=r"\S")]
Reason = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"\S")]


@flow(flow_run_name=start_time, on_crashed=[stale_runs.after_crash], on_cancellation=[stale_runs.after_cancellation])
def approve(
    version: Annotated[int, Field(ge=1)],
    answer: Literal["approve", "reject"],
    who: Person,
    reason: Reason,
) -> State:
    """Approve a version that waits for a person, which makes it the champion, or reject it.

    A version that does not wait any more is refused with the reason: it was approved or rejected already, was
    overtaken by another one, or waited longer than `promote.approval_days`. Nothing is moved then.

    Args:
        version: Number of the version, as the page of the retraining names it.
        answer: approve makes it the champion; reject leaves the champion as it is.
        who: Your name. Prefect knows no persons, so the history has the name that stands here.
        reason: Why; the history keeps it.
    """
    begin()
    add_to_name(f"{answer} version {version}, by {who.strip()}")
    return unreported.conclude(_end_of(str(version), answer, who=who.strip(), reason=reason.strip()))


def _end_of(number: str, answer: str, *, who: str, reason: str) -> End:
    from ddpm.canary.examine import Examination  # imports torch, which every retraining would wait for

    params = load_params()
    registry = MlflowRegistry(params.promote.name)
    canary = Examination(limits=params.canary, device=params.runtime.device)
    try:
        if answer == "reject":
            approval.reject(registry, number, reason=reason, by=who)
            state: State = Completed(name="Completed: rejected", message=f"{who} rejected version {number}: {reason}")
        else:
            move = approval.approve(registry, number, reason=reason, by=who, canary=canary)
            before = f", which replaces version {move.previous}" if move.previous else ""
            state = Completed(name="Completed: promoted", message=f"{who} approved version {number}{before}: {reason}")
    except UserError as error:
        refused: State = Failed(name="Refused", message=str(error))
        return End(refused, [pages.of_answer(refused, None)])
    return End(state, pages.after_answer(state, number))


def close_waiting() -> list[str]:
    """Reject what waits for a person and may not be approved any more; return a sentence for each."""
    if not pages.has_store():
        return []
    try:
        closed = approval.close(MlflowRegistry(load_params().promote.name))
    except UserError as error:  # the stages go on without a registry, and say so themselves
        return [f"versions that wait for a person were not looked at: {error}"]
    return [f"version {ruling.version} is rejected: {ruling.reason}" for ruling in closed]
