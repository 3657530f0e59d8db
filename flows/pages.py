"""Write the page of a run in Prefect as Markdown: result, reasons, decision of the gate, metrics, samples, links."""

import html
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from prefect.client.schemas.objects import State
from unreported import Page

from ddpm.errors import UserError
from ddpm.promotion.advice import approve_command
from ddpm.redaction import redacted
from ddpm.reporting import decisions, markdown, measurements
from ddpm.reporting.markdown import escaped

if TYPE_CHECKING:
    from ddpm.promotion.registry import Version

KEY = "retraining"
"""Key of the page of a run."""
TREND = "trend"
"""Key of the page about all retrainings; Prefect's page of the key begins with the latest one."""
HISTORY = "history"
"""Key of the page with every champion and every decision of a person."""
APPROVAL = "approval"
"""Key of the page of a person's answer."""
ANSWER = "approve/answer"
"""The deployment by which a person approves or rejects, as prefect.yaml names it."""
METRICS = Path("reports/metrics.json")
GRID = Path("reports/samples.png")
RUN = Path("models/run.json")
REPORT = Path("reports/report.html")
DATA_DOCS = Path("reports/data_docs/index.html")

_DESCRIPTION_CHARACTERS = 300
"""Longest description on the card of a page."""
_REASONS = 12
"""Number of reasons on the page, the most telling ones; a `git pull` may change a hundred files."""


@dataclass(frozen=True)
class Registered:
    """The model of this workspace in the registry, and the champions that it is compared with."""

    version: "Version | None"
    """None if the registry lacks the model of models/run.json with the metrics of reports/metrics.json."""
    against: "Version | None"
    """The champion when the gate decided."""
    champion: "Version | None"
    """The present champion."""

    def state_name(self) -> str:
        """Return the name of the state of a run that registered the version: what became of it, at a glance."""
        if self.version is not None and self.champion is not None and self.champion.number == self.version.number:
            return "Completed: promoted"
        if self.version is not None and self.version.tags.get("decision") == "pending":
            return "Waiting for approval"
        return "Completed: kept the champion" if self.champion else "Completed: not promoted"

    def sentence(self) -> str:
        """Return what became of the version, with its metric and the champion's."""
        assert self.version is not None
        number = self.version.number
        approval = approve_command(self.version.name, number)
        stays = f"version {self.champion.number} stays the champion" if self.champion else "there is no champion"
        decided = {
            "Completed: promoted": f"version {number} is the champion now",
            "Completed: kept the champion": f"version {number} was not promoted, {stays}",
            "Completed: not promoted": f"version {number} was not promoted, {stays}",
            "Waiting for approval": f"version {number} waits for a person: `{approval}` or the deployment {ANSWER}",
        }
        return decided[self.state_name()] + self._compared()

    def _compared(self) -> str:
        from ddpm.params import load as load_params

        metric, measured = load_params().promote.main, read_metrics()
        if measured is None:
            return ""
        own = f": {metric.label} {measurements.with_interval(measured, metric)}"
        record = self.against.record_like(measured) if self.against else None
        if self.against is None or record is None:
            return own
        return f"{own}, version {self.against.number} had {measurements.with_interval(record, metric)}"


def of_result(state: State, reasons: Sequence[str], registered: Registered | None) -> list[Page]:
    """Return the page of a run that completed all stages."""
    parts = [_top(state, reasons)]
    if registered:
        parts.append(f"## Decision of the gate\n\n{decision(registered)}")
    measured = read_metrics()
    if measured:
        parts.append(f"## Metrics\n\n{metrics(measured, registered)}")
    if GRID.exists():
        parts.append(f"## Samples\n\n{markdown.embedded(GRID)}")
    return [_page(state, [*parts, links(registered)]), *trend(), *history()]


def of_failure(state: State, reasons: Sequence[str]) -> Page:
    """Return the page of a run that failed."""
    return _page(state, [_top(state, reasons), links(None)])


def of_nothing(state: State, registered: Registered | None) -> list[Page]:
    """Return the pages of a run that had nothing to do. A person may have changed the champion meanwhile."""
    parts = [_top(state, [])]
    if registered:
        parts.append(f"## The model so far\n\n{decision(registered)}")
    return [_page(state, parts), *([*trend(), *history()] if registered else [])]


def of_answer(state: State, text: str | None) -> Page:
    """Return the page of a person's answer, with the decision about the version if there is one."""
    shown = "\n\n".join(filter(None, (_top(state, []), text)))
    return Page(APPROVAL, f"{shown}\n", redacted(f"{state.name}; {state.message}")[:_DESCRIPTION_CHARACTERS])


def after_answer(state: State, number: str) -> list[Page]:
    """Return the pages of a person's answer about this version, which changed the registry."""
    from ddpm.params import load as load_params
    from ddpm.promotion.registry import champion, version
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    registry = MlflowRegistry(load_params().promote.name)
    text = decisions.decision(version(registry, number), champion(registry))
    return [of_answer(state, text), *trend(), *history()]


def history() -> list[Page]:
    """Return the page with every champion and every decision of a person, newest first; none if there is none."""
    from ddpm.params import load as load_params
    from ddpm.reporting.history import history_table, in_order
    from ddpm.reporting.measurements import Protocols
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    if not has_store():
        return []
    registry = MlflowRegistry(load_params().promote.name)
    events = in_order(registry.history(), registry.rulings())
    if not events:
        return []
    protocols = Protocols()
    versions = {version.number: version for version in registry.versions()}
    text = markdown.table(history_table(events, versions, protocols))
    lines = ["# Champions and decisions", "", text, "", *(f"- {escaped(line)}" for line in protocols.legend())]
    return [Page(HISTORY, "\n".join(lines) + "\n", "every champion and every decision of a person")]


def trend() -> list[Page]:
    """Return the page that shows the metric of every version; none if there is no version."""
    from ddpm.params import load as load_params
    from ddpm.reporting.trend import page
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    if not RUN.exists() or not has_store():
        return []
    promote = load_params().promote
    registry, metric = MlflowRegistry(promote.name), promote.main
    text = page(registry.versions(), registry.history(), metric)
    return [Page(TREND, text, f"{metric.label} of every retraining, and of the champion at that time")] if text else []


def _page(state: State, parts: Sequence[str]) -> Page:
    return Page(
        KEY,
        "\n\n".join(filter(None, parts)) + "\n",
        redacted(f"{state.name}; {state.message}")[:_DESCRIPTION_CHARACTERS],
    )


def _top(state: State, reasons: Sequence[str]) -> str:
    because = "".join(f"\n- {escaped(reason)}" for reason in reasons[:_REASONS])
    if len(reasons) > _REASONS:
        because += f"\n- and {len(reasons) - _REASONS} more, all in the log of the run"
    return f"# {state.name}\n\n{escaped(state.message or '')}" + (f"\n\n## Why it ran\n{because}" if because else "")


def registered() -> Registered:
    """Read the registry. Raises UserError if MLflow does not answer or models/run.json is missing."""
    from ddpm.params import load as load_params
    from ddpm.promotion.registry import champion_among, holding, judged_against
    from ddpm.tracking.mlflow_registry import MlflowRegistry
    from ddpm.tracking.run_json import read_run

    sha256 = read_run(RUN)["model_sha256"]
    if not has_store():
        return Registered(version=None, against=None, champion=None)
    versions = MlflowRegistry(load_params().promote.name).versions()
    version = holding(versions, sha256, (read_metrics() or {}).get("protocol", {}))
    return Registered(
        version=version,
        against=judged_against(version, versions),
        champion=champion_among(versions),
    )


def has_store() -> bool:
    """Return whether there is a registry to ask: a server, or the project's own database."""
    from ddpm.tracking.store import default_uri, project, tracking_uri

    return tracking_uri() != default_uri() or (project() / "mlflow.db").exists()


def metrics(measured: Mapping[str, Any], registered: Registered | None) -> str:
    """Return a table of the metrics of this model, of the champion when the gate decided, and of the floor.

    The champion's column is left out if its metrics come from another protocol, because they cannot be compared.
    """
    champion, title = None, "champion"
    if registered and registered.against:
        title = f"champion, version {registered.against.number}"
        champion = registered.against.record_like(measured)
    return markdown.table(measurements.metrics_table(measured, champion, champion_title=title))


def links(registered: Registered | None) -> str:
    """Return a section with the places with more detail that exist, or an empty string."""
    lines = []
    if registered and registered.version:
        lines += _mlflow_links(registered.version)
    if REPORT.exists():
        lines.append(f"Report: open {markdown.code(REPORT.absolute())} in a browser")
    if DATA_DOCS.exists():
        lines.append(f"Data Docs: open {markdown.code(DATA_DOCS.absolute())} in a browser")
    if METRICS.exists():
        lines.append("Metrics and curves of this and other revisions: `dvc metrics diff`, `dvc plots show`")
    return "\n".join(["## More", "", *(f"- {line}" for line in lines)]) if lines else ""


def decision(registered: Registered) -> str:
    """Return the decision of the gate on this workspace's model, and how a person can change it."""
    if registered.version is None:
        return "This workspace's model is not registered."
    return decisions.decision(registered.version, registered.champion)


def read_metrics() -> dict[str, Any] | None:
    """Return the content of reports/metrics.json, None if it is missing. Raises UserError if it is not valid JSON."""
    try:
        return json.loads(METRICS.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{METRICS} is not valid JSON ({error}); write it again with `dvc repro -f evaluate`") from None


def _mlflow_links(version: "Version") -> list[str]:
    """Return links to the version and its run if MLflow has a server; otherwise the command that starts one."""
    from ddpm.tracking.store import default_uri, is_server, shown_uri, tracking_uri

    uri = shown_uri()
    if is_server(uri):
        page = f"{uri.rstrip('/')}/#"
        found = [
            _link(
                f"version {version.number} in MLflow", f"{page}/models/{quote(version.name)}/versions/{version.number}"
            )
        ]
        if version.run_id:
            found.append(_link("the training's run in MLflow", f"{page}/runs/{version.run_id}"))
        return found
    # The address may contain a password, so the command names the variable instead.
    own = tracking_uri() == default_uri()
    store = shlex.quote(tracking_uri()) if own else '"$MLFLOW_TRACKING_URI"'
    server = f"mlflow ui --allowed-hosts 127.0.0.1:5000,localhost:5000 --backend-store-uri {store}"
    return [f"Version {escaped(version.number)} and its run in MLflow: {markdown.code(server)}, run `{version.run_id}`"]


def _link(title: str, address: str) -> str:
    return f"[{escaped(title)}]({html.escape(address).replace('(', '%28').replace(')', '%29')})"
