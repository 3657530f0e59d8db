"""The description of a run on MLflow's page: sections in Markdown, each written by the stage that knows its content."""

from typing import TYPE_CHECKING

from ddpm.tracking.store import answered

if TYPE_CHECKING:
    from ddpm.tracking.run_tracker import MlflowTracker

SECTIONS = ("Decision", "Samples", "Metrics", "What was tried", "Links")
"""Titles in the order in which people read them."""
MAX_CHARACTERS = 7900
"""MLflow takes at most 8,000 characters in a tag."""
_HEADING = "### "


def describe(tracker: "MlflowTracker", **sections: str) -> None:
    """Write sections of the run's description, by title with `_` for spaces; the others stay as they are.

    The text of a section must be escaped Markdown without headings. Raise UserError if the store does not answer.
    """
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

    there = answered(lambda: tracker.client.get_run(tracker.id)).data.tags.get(MLFLOW_RUN_NOTE, "")
    written = {title.replace("_", " "): text for title, text in sections.items()}
    tracker.tags({MLFLOW_RUN_NOTE: with_sections(there, written)})


def with_sections(description: str, written: dict[str, str]) -> str:
    """Return the description with these sections replaced or added. Text that a person put before them stays."""
    before, found = _split(description)
    found |= written
    order = [*(title for title in SECTIONS if title in found), *(title for title in found if title not in SECTIONS)]
    parts = [before, *(f"{_HEADING}{title}\n\n{found[title]}" for title in order)]
    whole = "\n\n".join(part for part in parts if part)
    return whole if len(whole) <= MAX_CHARACTERS else whole[:MAX_CHARACTERS].rpartition("\n")[0] + "\n\n…"


def _split(description: str) -> tuple[str, dict[str, str]]:
    before, *parts = f"\n{description}".split(f"\n{_HEADING}")
    titled = [part.partition("\n") for part in parts]
    return before.strip(), {title.strip(): text.strip() for title, _, text in titled}
