"""The run of the deployment that answers events: one that waits answers all events until it begins."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Scheduled

_SOON = timedelta(hours=1)
"""A run that waits and begins within this time answers further events, too."""


async def waiting_or_new(
    client: PrefectClient, deployment: UUID, because: str | None, *, seconds: float, key: str
) -> FlowRun:
    """Return the run of this deployment that waits for events; if none does, one that begins in so many seconds.

    The same `key` gives the same run, also if this process ends before it notes the run.
    """
    now = datetime.now(UTC)
    soon = now + max(timedelta(seconds=seconds), _SOON)
    waiting = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
            tags=FlowRunFilterTags(all_=["event"]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
            # A copy of such a run that a person made for tomorrow answers no event of today.
            expected_start_time=FlowRunFilterExpectedStartTime.model_validate({"before_": soon}),
        ),
        limit=1,
    )
    if waiting:
        return waiting[0]
    return await client.create_flow_run_from_deployment(
        deployment,
        parameters={"trigger": "event", "because": because},
        state=Scheduled(scheduled_time=now + timedelta(seconds=seconds)),
        tags=["event"],
        idempotency_key=key,
    )


async def after(run: UUID, because: str | None, *, seconds: float) -> FlowRun | None:
    """Return the later run for the event that this run could not answer; None if this run has no deployment."""
    async with get_client() as client:
        deployment = (await client.read_flow_run(run)).deployment_id
        if deployment is None:
            return None
        key = f"after {run}"
        later = await waiting_or_new(client, deployment, because, seconds=seconds, key=key)
        if later.state is None or later.state.type == StateType.SCHEDULED:
            return later
        # A person started this run again, after its later run had ended.
        key = f"{key} at {datetime.now(UTC).isoformat()}"
        return await waiting_or_new(client, deployment, because, seconds=seconds, key=key)
