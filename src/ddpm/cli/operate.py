"""What an operator asks: of the data before a run, of the registry, and what the last run made."""

import argparse
import shlex
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.cli.model import registered_name
from ddpm.errors import UserError

if TYPE_CHECKING:
    from ddpm.promotion.registry import Version

FIGURES = (
    ("fid", "FID", "lower is better"),
    ("kid", "KID", "lower is better"),
    ("isc", "IS", "higher is better"),
    ("precision", "precision", "higher is better"),
    ("recall", "recall", "higher is better"),
    ("memorized_share", "memorized", "share of near copies of training images, pixel by pixel"),
    ("memorized_share_features", "by features", "share of near copies by the extractor's features"),
    ("memorized_share_shifted", "if shifted", "share of near copies that may be shifted by one pixel"),
    ("memorized_share_half", "by halves", "share whose left, right, upper or lower half is a near copy"),
)


def versions(args: argparse.Namespace) -> None:
    """Every version, newest first."""
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    found = MlflowRegistry(registered_name(args)).versions()
    if not found:
        raise UserError(f"nothing is registered as {registered_name(args)}; `dvc repro` trains and registers a model")
    head = ("version", "aliases", "sampler", "steps", "fid", "kid", "floor fid", "decision", "when", "run")
    rows = [
        (
            v.number,
            ", ".join(v.aliases),
            *(v.tags.get(key, "") for key in ("sample.sampler", "sample.steps", "fid", "kid", "floor.fid", "decision")),
            f"{v.created.astimezone():%Y-%m-%d %H:%M}",
            v.run_id or "",
        )
        for v in found
    ]
    widths = [max(len(str(row[column])) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def promote(args: argparse.Namespace) -> None:
    """A person's yes."""
    from ddpm.promotion.commands import promote
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    move = promote(MlflowRegistry(registered_name(args)), args.number, reason=args.reason)
    before = f", in the place of version {move.previous}" if move.previous else ""
    print(f"version {move.version} of {registered_name(args)} is the champion{before}")


def rollback(args: argparse.Namespace) -> None:
    """Back to the champion before this one."""
    from ddpm.promotion.commands import rollback
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    move = rollback(MlflowRegistry(registered_name(args)), reason=args.reason)
    print(
        f"version {move.version} of {registered_name(args)} is the champion again, version {move.previous} is not; "
        f"`ddpm promote {move.previous} --reason …` undoes it"
    )


def configure(args: argparse.Namespace) -> None:
    """A recipe's values into params.yaml; nobody may be running the pipeline on it meanwhile."""
    from ddpm import overlay, unread_settings
    from ddpm.pipeline.workspace import claim

    params = Path("params.yaml")
    if not params.exists():
        raise UserError(f"{params} was not found; run `ddpm configure` from the project's folder, where it stands")
    with claim("ddpm configure"):
        result, changes = overlay.write(params, args.recipe)
    if not changes:
        print(f"{params} already has every value of {args.recipe}; nothing was changed")
        return
    print(f"{params} has the values of {args.recipe}:")
    for change in changes:
        print(f"  {change}")
    for sentence in unread_settings.warned(result):
        print(f"warning: {sentence}")
    print("next: `ddpm look` checks the images' folder, `make run` trains with these values")


def look(args: argparse.Namespace) -> None:
    """Before DVC does: it waits for ever for a pipe, and does not see what is behind a link to a folder."""
    from ddpm.data.preparing.tree import require_readable
    from ddpm.params import load as load_params

    data = load_params().data
    require_readable(Path(data.path), source=data.source)


def report(args: argparse.Namespace) -> None:
    """What a run of the pipeline made, and where to look at it."""
    import json

    from ddpm.promotion.registry import CHAMPION, holding
    from ddpm.tracking.mlflow_registry import MlflowRegistry
    from ddpm.tracking.run_json import read_run

    try:
        record = json.loads(args.metrics.read_text())
    except FileNotFoundError:
        raise UserError(f"{args.metrics} was not found; `dvc repro` makes it") from None
    print(f"{'':12}{'model':>10}{'floor':>10}   floor: real images, measured the same way")
    for key, title, meaning in FIGURES:
        print(f"{title:12}{_figure(record.get(key)):>10}{_figure(record['floor'].get(key)):>10}   {meaning}")
    print()

    made = read_run(args.run_json)
    known = MlflowRegistry(registered_name(args)).versions()
    found = holding(known, made["model_sha256"], record.get("protocol", {}))
    champion = next((v for v in known if CHAMPION in v.aliases), None)
    _say("model", _standing(found, champion))
    if found is not None:
        _say("because", found.tags.get("reasons", ""))
    _say("images", " and ".join(str(path) for path in (args.grid, args.animation) if path.exists()))
    _say("MLflow", _mlflow_command(), whole=True)
    _say("Prefect", f"PREFECT_SERVER_ANALYTICS_ENABLED=false {_program('prefect')} server start", whole=True)
    _say("", "then open http://127.0.0.1:4200")


def _standing(found: "Version | None", champion: "Version | None") -> str:
    if found is None:
        return "is not registered; `dvc repro -f -s register` does it"
    decision = found.tags.get("decision", "not judged yet")
    said = f"{found.name} version {found.number}: {decision}"
    if champion is None:
        return f"{said}; there is no champion"
    if champion.number == found.number:
        return f"{said}; it is the champion"
    return f"{said}; champion is version {champion.number} (FID {champion.tags.get('fid', 'unknown')})"


def _mlflow_command() -> str:
    from ddpm.tracking.store import default_uri, shown_uri, tracking_uri

    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        return f"open {shown_uri()}"
    # An address may hold a password, so its variable stands for it.
    store = shlex.quote(uri) if uri == default_uri() else '"$MLFLOW_TRACKING_URI"'
    # MLflow itself answers to `10.*`, hence also to a name 10.anything.example, by which another site could read.
    return (
        f"MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {_program('mlflow')} server "
        "--workers 1 --allowed-hosts 127.0.0.1:5000,localhost:5000 "
        f"--backend-store-uri {store}\nthen open http://127.0.0.1:5000"
    )


def _program(name: str) -> str:
    """As it is called from here, whether or not the environment is active."""
    path = Path(sys.executable).parent / name
    try:
        return shlex.quote(str(path.relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(path))


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "-"


def _say(title: str, text: str, *, whole: bool = False) -> None:
    lines = text.splitlines() if whole else textwrap.wrap(text, width=96)
    for k, line in enumerate(lines):
        print(f"{title if k == 0 else '':12}{line}")
