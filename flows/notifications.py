"""Messages to a webhook about failures, refusals, waiting versions and promotions: `python flows/notifications.py on`.

They are Prefect's own automations with one of its webhook blocks, so Prefect's page lists, pauses and changes them.
None is there until a person switches them on. The address is read from the environment variable DDPM_WEBHOOK, because
it is a secret, and Prefect stores it encrypted.
"""

import argparse
import os
import sys
from datetime import timedelta
from uuid import UUID

os.environ.setdefault("DO_NOT_TRACK", "1")  # prefect reads it when it is imported

import command_line
import httpx
from prefect.automations import AutomationCore, CallWebhook, EventTrigger, Posture, ResourceSpecification
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException

from ddpm.errors import UserError
from ddpm.redaction import redacted_output

ADDRESS = "DDPM_WEBHOOK"
BLOCK = "ddpm-webhook"
FLOWS = ("retrain", "pipeline", "approve")
STATES = {
    "ddpm: a run failed": ("Failed*", "Crashed", "TimedOut"),
    "ddpm: refused": ("Refused", "Completed: kept the champion", "Completed: not promoted", "Completed: rejected"),
    "ddpm: a version waits for approval": ("Waiting for approval",),
    "ddpm: a new champion": ("Completed: promoted",),
}
"""By name of the automation: the states of a run about which it sends a message; a star stands for any rest."""
_PLAIN = "flow.name ~ ' ' ~ flow_run.name ~ ': ' ~ flow_run.state.name ~ '; ' ~ (flow_run.state.message or '')"
_TEXT = f"({_PLAIN}) | replace('&', '&amp;') | replace('<', '&lt;') | replace('>', '&gt;')"
"""Without the links and mentions of Slack: a run's name may have words of an event, which anybody may have written."""
PAYLOAD = "\n".join(
    (
        "{",
        f'"text": {{{{ ({_TEXT}) | tojson }}}},',
        f'"content": {{{{ ({_PLAIN}) | tojson }}}},',
        '"allowed_mentions": {"parse": []},',
        '"flow": {{ flow.name | tojson }},',
        '"run": {{ flow_run.name | tojson }},',
        '"state": {{ flow_run.state.name | tojson }},',
        '"message": {{ flow_run.state.message | tojson }},',
        '"address": {{ flow_run | ui_url | tojson }}',
        "}",
    )
)
"""The message, as JSON: `text` is what Slack and Mattermost show, `content` what Discord shows."""


def switch_on() -> None:
    """Create the automations, or replace those of an earlier call. Raise UserError if there is no usable address."""
    address = os.environ.get(ADDRESS, "")
    if not address.startswith(("https://", "http://")):
        raise UserError(
            f"{ADDRESS} is {'not set' if not address else 'no web address'}, expected the address of a webhook that "
            f"takes JSON by POST; run `{ADDRESS}=https://… python flows/notifications.py on`"
        )
    headers = {"Content-Type": "application/json"}
    block: UUID = Webhook(url=address, headers=headers).save(BLOCK, overwrite=True)  # type: ignore[assignment, arg-type]
    _remove()
    with get_client(sync_client=True) as client:
        for name, states in STATES.items():
            client.create_automation(_automation(name, states, block))


def switch_off() -> None:
    """Remove the automations and the block with the address."""
    _remove()
    with get_client(sync_client=True) as client:
        for block in client.read_block_documents_by_type("webhook"):
            if block.name == BLOCK and block.id is not None:
                client.delete_block_document(block.id)


def names() -> list[str]:
    """Return the names of the automations that are there, in the order of STATES."""
    with get_client(sync_client=True) as client:
        return [name for name in STATES if client.read_automations_by_name(name)]


def _automation(name: str, states: tuple[str, ...], block: UUID) -> AutomationCore:
    return AutomationCore(
        name=name,
        description="Sends a message; made and removed by flows/notifications.py",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in states},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)}
            ),
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[CallWebhook(block_document_id=block, payload=PAYLOAD)],
    )


def _remove() -> None:
    with get_client(sync_client=True) as client:
        for name in STATES:
            for found in client.read_automations_by_name(name):
                client.delete_automation(found.id)


def main() -> None:
    """Switch the messages on or off, or print which are on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("switch", choices=("on", "off", "show"), nargs="?", default="show", help="default: show")
    switch = parser.parse_args().switch
    with redacted_output():
        try:
            command_line.use_server()
            {"on": switch_on, "off": switch_off, "show": lambda: None}[switch]()
            print("\n".join(f"on: {name}" for name in names()) or "no messages are sent")
        except (UserError, httpx.HTTPError, PrefectException) as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
