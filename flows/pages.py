"""What a person wants to see of a run, as Markdown: the figures, the images, where to look further, the decision."""

import base64
import io
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.cli.operate import FIGURES
from ddpm.errors import UserError

if TYPE_CHECKING:
    from ddpm.promotion.registry import Version

METRICS = Path("reports/metrics.json")
GRID = Path("reports/samples.png")
RUN = Path("models/run.json")
DATA_DOCS = Path("reports/data_docs/index.html")

_MAX_IMAGE_PIXELS = 1024


@dataclass(frozen=True)
class Registered:
    """The model of this workspace in the registry, and whom it was held against."""

    version: "Version | None"
    """None if the registry does not hold the model of models/run.json with the metrics of reports/metrics.json."""
    against: "Version | None"
    """The champion of the moment of the decision."""
    champion: "Version | None"
    """The champion now."""


def registered() -> Registered:
    """Asks the registry. Raises UserError where MLflow does not answer or models/run.json is missing."""
    from ddpm.params import load as load_params
    from ddpm.promotion.registry import CHAMPION, holding
    from ddpm.tracking.mlflow_registry import MlflowRegistry
    from ddpm.tracking.run_json import read_run
    from ddpm.tracking.store import default_uri, project, tracking_uri

    sha256 = read_run(RUN)["model_sha256"]
    if tracking_uri() == default_uri() and not (project() / "mlflow.db").exists():
        return Registered(version=None, against=None, champion=None)
    known = MlflowRegistry(load_params().promote.name).versions()
    version = holding(known, sha256, (read_metrics() or {}).get("protocol", {}))
    number = version.tags.get("decided_against") if version else None
    return Registered(
        version=version,
        against=next((each for each in known if each.number == number), None),
        champion=next((each for each in known if CHAMPION in each.aliases), None),
    )


def metrics(measured: Mapping[str, Any], standing: Registered | None) -> str:
    """A table: this model's figures, the champion's it was held against, and the floor.

    The champion's column is empty where it was measured by another protocol, because the figures do not compare.
    """
    champion: Mapping[str, Any] = {}
    title = "champion"
    if standing and standing.against:
        title = f"champion, version {standing.against.number}"
        champion = standing.against.record_like(measured) or {}
    lines = [f"| | this model | {title} | floor: real images, measured the same way |", "|---|---|---|---|"]
    for name, label, meaning in FIGURES:
        figures = [_figure(record, name) for record in (measured, champion, measured.get("floor") or {})]
        lines.append(f"| **{label}**, {meaning} | {' | '.join(figures)} |")
    return "\n".join(lines)


def image(path: Path) -> str:
    """The image itself within the Markdown, so that whoever sees the page sees the image."""
    from PIL import Image

    written = io.BytesIO()
    with Image.open(path) as picture:
        picture.thumbnail((_MAX_IMAGE_PIXELS, _MAX_IMAGE_PIXELS))
        picture.save(written, format="PNG")
    return f"![{path.name}](data:image/png;base64,{base64.b64encode(written.getvalue()).decode()})\n\n`{path}`"


def links(standing: Registered | None) -> str:
    """Where to look further, of what there is."""
    lines = []
    if standing and standing.version and standing.version.run_id:
        lines.append(_run_link(standing.version.run_id))
    if DATA_DOCS.exists():
        lines.append(f"Data Docs: open `{DATA_DOCS.absolute()}` in a browser")
    if METRICS.exists():
        lines.append("Figures and curves of this and other revisions: `dvc metrics diff`, `dvc plots show`")
    return "\n".join(f"- {line}" for line in lines)


def decision(standing: Registered) -> str:
    """What the gate said about this workspace's model, and what a person can do about it."""
    version = standing.version
    if version is None:
        return "The registry does not hold this workspace's model."
    said = version.tags.get("decision", "not decided")
    lines = [f"Version {version.number} of `{version.name}`: **{said}**."]
    lines += [f"- {reason}" for reason in version.tags.get("reasons", "").split("; ") if reason]
    if said == "pending":
        lines += ["", f"To approve it: `ddpm promote {version.number} --reason …`"]
    if standing.champion:
        lines += ["", f"Champion: version {standing.champion.number}. To go back one: `ddpm rollback --reason …`"]
    else:
        lines += ["", "There is no champion."]
    return "\n".join(lines)


def read_metrics() -> dict[str, Any] | None:
    """reports/metrics.json, where the pipeline has made it. Raises UserError where it is no JSON."""
    try:
        return json.loads(METRICS.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{METRICS} is no JSON ({error}); `dvc repro -f evaluate` makes it again") from None


def _figure(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if value is None:
        return ""
    spread = record.get(f"{name}_spread") or record.get(f"{name}_std")
    return f"{value:.4g} ± {spread:.2g}" if spread else f"{value:.4g}"


def _run_link(run_id: str) -> str:
    from ddpm.tracking.store import default_uri, shown_uri, tracking_uri

    uri = shown_uri()
    if uri.startswith("http"):
        return f"[The training's run in MLflow]({uri}/#/runs/{run_id})"
    # An address may hold a password, so its variable stands for it.
    own = tracking_uri() == default_uri()
    store = shlex.quote(uri) if own else '"$MLFLOW_TRACKING_URI"'
    server = f"mlflow ui --allowed-hosts 127.0.0.1:5000,localhost:5000 --backend-store-uri {store}"
    return f"The training's run in MLflow: `{server}`, run `{run_id}`"
