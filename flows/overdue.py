"""Let Prefect start a retraining if none has ended for some days: `python flows/overdue.py --days 14`.

It makes the automation `retraining is overdue` on the server, or changes it; `--off` removes it.
"""

import argparse
import os
import sys
from datetime import timedelta
from typing import Any
from uuid import UUID

os.environ.setdefault("DO_NOT_TRACK", "1")  # prefect reads it when it is imported

import command_line
from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound

from ddpm.errors import UserError
from ddpm.redaction import redacted_output

NAME = "retraining is overdue"
DEPLOYMENT = "retrain/nightly"
_TRAINED = ("promoted", "kept the champion", "not promoted", "same model")
"""Ends of a run that trained; one that had nothing to do or failed is no retraining."""
_LEAST_SECONDS = 10.0
"""Prefect's shortest time for something that did not happen."""


def automation(within: timedelta, deployment: UUID) -> Automation:
    """Return the automation that starts the deployment when no retraining has ended within this time."""
    ends = {f"prefect.flow-run.Completed: {end}" for end in _TRAINED} | {"prefect.flow-run.Waiting for approval"}
    return Automation(
        name=NAME,
        description="Starts a retraining if none has ended for too long; made by flows/overdue.py",
        trigger=EventTrigger(
            expect={*ends, "prefect.flow-run.Completed"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "flow", "prefect.resource.name": DEPLOYMENT.partition("/")[0]}
            ),
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=deployment,
                job_variables=None,
                parameters={"trigger": "overdue", "because": f"no retraining for {_words(within)}", "force": True},
            )
        ],
    )


def switch(within: timedelta | None) -> str:
    """Make, change or (None) remove the automation; return what was done. Raises UserError without the deployment."""
    present = _present()
    if within is None:
        if present is not None:
            present.delete()
        return f"the automation {NAME!r} is {'off now' if present is not None else 'off'}"
    try:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name(DEPLOYMENT).id
    except ObjectNotFound:
        raise UserError(
            f"the server has no deployment {DEPLOYMENT}; create it with `prefect --profile local --no-prompt deploy "
            "--all`, and run this again"
        ) from None
    made: Any = automation(within, deployment)
    if present is not None:  # one with this name only, so that a retraining is not started twice
        present.delete()
    made.create()
    return f"{DEPLOYMENT} starts when no retraining has ended for {_words(within)}"


def _present() -> Any:
    """Return the automation of this name, or None. Prefect types its methods as coroutines, which they are not here."""
    try:
        return Automation.read(name=NAME)
    except ValueError:
        return None


def _words(within: timedelta) -> str:
    days = within / timedelta(days=1)
    return f"{days:g} days" if days >= 1 else f"{within.total_seconds():g} seconds"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--days", type=float, help="longest time without a retraining")
    what.add_argument("--off", action="store_true", help="remove the automation")
    args = parser.parse_args()
    with redacted_output():
        try:
            within = None if args.off else timedelta(days=args.days)
            if within is not None and within.total_seconds() < _LEAST_SECONDS:
                raise UserError(f"--days is {args.days:g}, expected {_LEAST_SECONDS:g} seconds or more; name days")
            command_line.use_server()
            print(switch(within))
        except UserError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
