"""The page of a search in Prefect: its trials, the best first, and what came of the best settings."""

from typing import TYPE_CHECKING

from prefect.client.schemas.objects import State
from unreported import Page

from ddpm.reporting import markdown
from ddpm.reporting.markdown import escaped

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from search_trials import Trials

KEY = "search"
"""Key of the page of a search."""
_SHOWN = 50
"""Largest number of trials on the page."""


def page_of(trials: "Trials", end: State | None = None) -> Page:
    """Return the page with a table of the trials; `end` says what became of the best settings."""
    keys = [dimension.key for dimension in trials.space.dimensions]
    lower = trials.better == "lower"

    def rank(trial: "FrozenTrial") -> tuple[bool, float]:
        value = trial.value
        return (value is None, 0.0 if value is None else value if lower else -value)

    ordered = sorted(trials.study.get_trials(deepcopy=False), key=rank)[:_SHOWN]
    rows = [
        [
            str(trial.number),
            _WORDS.get(trial.state.name, trial.state.name.lower()),
            "" if trial.value is None else f"{trial.value:.4g}",
            *(_shown(trial.params.get(key)) for key in keys),
        ]
        for trial in ordered
    ]
    table = markdown.table(markdown.Table(["trial", "end", trials.metric.heading, *keys], rows))
    said = escaped(end.message or "") if end else "The search has not ended."
    measured_on = (
        f"Trained on {trials.facts.train:,} and measured on {trials.facts.test:,} of the training images; no trial had "
        "held-out images."
    )
    text = f"# Search {trials.name}\n\n{said}\n\n{measured_on}\n\n## Trials\n\n{table}\n"
    return Page(KEY, text, f"{len(ordered)} trials of {', '.join(keys)}"[:300])


_WORDS = {"COMPLETE": "measured", "PRUNED": "stopped", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
