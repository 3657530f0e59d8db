"""The run of the deployment that answers events: one that waits answers all events until it begins."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Scheduled


async def waiting_or_new(
    client: PrefectClient, deployment: UUID, because: str | None, *, seconds: float, key: str
) -> FlowRun:
    """Return the run of this deployment that waits for events; if none does, one that begins in so many seconds.

    The same `key` gives the same run, also if this process ends before it notes the run.
    """
    waiting = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
            tags=FlowRunFilterTags(all_=["event"]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        ),
        limit=1,
    )
    if waiting:
        return waiting[0]
    return await client.create_flow_run_from_deployment(
        deployment,
        parameters={"trigger": "event", "because": because},
        state=Scheduled(scheduled_time=datetime.now(UTC) + timedelta(seconds=seconds)),
        tags=["event"],
        idempotency_key=key,
    )


async def after(run: UUID, because: str | None, *, seconds: float) -> FlowRun | None:
    """Return the later run for the event that this run could not answer; None if this run has no deployment."""
    async with get_client() as client:
        deployment = (await client.read_flow_run(run)).deployment_id
        if deployment is None:
            return None
        return await waiting_or_new(client, deployment, because, seconds=seconds, key=f"after {run}")
