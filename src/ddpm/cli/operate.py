"""The commands of an operator: settings, a check of the data, and a report on the last run."""

import argparse
import shlex
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.cli.model import registered_name
from ddpm.errors import UserError

if TYPE_CHECKING:
    from ddpm.promotion.registry import Version


def configure(args: argparse.Namespace) -> None:
    """Write a recipe's values into params.yaml; without a recipe, list those in the project's folder.

    Raises InUseError while the pipeline runs in this folder.
    """
    from ddpm import overlay, recipe_file, unread_settings
    from ddpm.pipeline.workspace import claim

    if args.recipe is None and not args.fit:
        _list_recipes()
        return
    params = Path("params.yaml")
    if not params.exists():
        raise UserError(f"{params} was not found in {Path.cwd()}; run `ddpm configure` in the project's folder")
    if args.fit:
        if args.recipe is not None:
            raise UserError("a recipe and --fit are two changes; run `ddpm configure` once with each")
        _fit(params)
        return
    args.recipe = recipe_file.find(args.recipe)
    with claim("ddpm configure"):
        result, changes = overlay.write(params, args.recipe)
    header = recipe_file.read(args.recipe).header
    if header is not None:
        print(f"{args.recipe}: {header.purpose}")
        _print_row("fits", header.conditions())
        _print_row("measured", header.results())
        if header.command is not None:
            _print_row("by", header.command, wrap=False)
    if not changes:
        print(f"{params} already has every value of {args.recipe}; nothing was changed")
        return
    print(f"{params} now has the values of {args.recipe}:")
    for change in changes:
        print(f"  {change}")
    for sentence in unread_settings.warned(result):
        print(f"warning: {sentence}")
    prepared = Path("data/prepared/dataset.json").exists()
    read = "" if prepared else "`dvc repro prepare` reads the images and says whether the recipe fits, then "
    print(
        f"next: `ddpm look` checks the images' folder, {read}`ddpm plan` says what a training with these values takes, "
        "`make run` trains"
    )


def _fit(params: Path) -> None:
    """Lower the limits that the prepared images do not reach."""
    from ddpm import few_images, overlay
    from ddpm.data.reading.dataset import read_facts
    from ddpm.params import load as load_params
    from ddpm.pipeline.workspace import claim

    prepared = Path("data/prepared")
    if not (prepared / "dataset.json").exists():
        raise UserError(f"{prepared} has no images to fit the limits to; prepare them with `dvc repro prepare`")
    facts = read_facts(prepared)
    current = load_params(params)
    if sentence := few_images.unreachable(current, train=facts.train, test=facts.test):
        raise UserError(sentence)
    limits = few_images.broken(current, train=facts.train, test=facts.test)
    if not limits:
        print(f"no limit is too high for {facts.train} training and {facts.test} held-out images; nothing was changed")
        return
    values: dict[str, dict[str, int]] = {}
    for limit in limits:
        section, name = limit.key.split(".")
        values.setdefault(section, {})[name] = limit.most
    with claim("ddpm configure"):
        _, changes = overlay.write_values(params, values, "--fit")
    print(f"{params} now fits {facts.train} training and {facts.test} held-out images:")
    for change in changes:
        print(f"  {change}")
    print("warning: metrics of so few images vary much from one draw of images to another; look at the images, too")


def _list_recipes() -> None:
    from ddpm import recipe_file

    folders = recipe_file.FOLDER, recipe_file.METHODS
    recipes = [found for folder in folders for found in recipe_file.with_headers(folder)]
    if not recipes:
        raise UserError(
            f"{recipe_file.FOLDER} in {Path.cwd()} has no recipe; run `ddpm configure` in the project's folder, or "
            "name the file of a recipe"
        )
    width = max(len(str(path)) for path, _ in recipes)
    for path, header in recipes:
        print(f"{path!s:{width}}  {header.purpose} ({header.results()})")


def look(args: argparse.Namespace) -> None:
    """Check the files at data.path, because DVC waits forever for a named pipe and ignores links to folders."""
    from ddpm.data.preparing.tree import require_readable
    from ddpm.params import load as load_params

    data = load_params().data
    require_readable(Path(data.path), source=data.source)
    if data.source in ("folder", "archive"):
        print(f"{data.path} can be read; `dvc repro prepare` says which of its files are images")
    else:
        print(f"data.source is {data.source}, so {data.path} is not searched for your own images")


def report(args: argparse.Namespace) -> None:
    """Print the metrics and the decision of the last run, and how to see more."""
    import json

    from ddpm.reporting.measurements import metrics_lines
    from ddpm.tracking.run_json import read_run

    if not args.run_json.exists():  # the metrics may be there all the same, because they are committed
        raise UserError(f"{args.run_json} was not found, so no model has been made here; run the pipeline: `dvc repro`")
    run = read_run(args.run_json)
    try:
        record = json.loads(args.metrics.read_text())
    except FileNotFoundError:
        raise UserError(f"{args.metrics} was not found; run the pipeline first: `dvc repro`") from None
    print("\n".join(metrics_lines(record)))
    print(flush=True)

    from ddpm.promotion.registry import champion_among, holding  # takes seconds, in which the metrics can be read
    from ddpm.reporting import decisions
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    versions = MlflowRegistry(registered_name(args)).versions()
    found = holding(versions, run["model_sha256"], record.get("protocol", {}))
    champion = champion_among(versions)
    _print_row("model", _decision(found, champion))
    if found is not None:
        for k, reason in enumerate(decisions.reasons(found)):
            _print_row("" if k else "because", reason)
    _print_page(registered_name(args))
    _print_row("images", " and ".join(str(path) for path in (args.grid, args.animation) if path.exists()))
    _print_row("MLflow", _mlflow_command(), wrap=False)
    _print_row("Prefect", f"PREFECT_SERVER_ANALYTICS_ENABLED=false {_program('prefect')} server start", wrap=False)
    _print_row("", "then open http://127.0.0.1:4200")


def _print_page(name: str) -> None:
    """Write the page of the last run again, say where it is, and say what has changed since the run."""
    from dataclasses import replace

    from ddpm import last_run
    from ddpm.files import write_text
    from ddpm.params import load as load_params
    from ddpm.pipeline.dvc_yaml import options_of_stage
    from ddpm.reporting.report_page import report_page

    paths = options_of_stage("report")
    if paths is None:
        return
    if using := _in_use():  # some files are of the last run, some of the next; and DVC would say to remove its lock
        _print_row("IN WORK", f"{using}. Until it ends, parts of the above may be of different runs")
        _print_row("report", f"not written meanwhile; stage `report` writes {paths.page}")
        return
    outdated = last_run.outdated()
    if outdated:
        _print_row("OLDER", outdated)
    try:
        promote = replace(load_params().promote, name=name)
        write_text(paths.page, report_page(last_run.read(paths, promote, outdated=outdated)))
    except UserError as error:
        _print_row("report", f"not written: {error}")
    else:
        _print_row("report", f"{paths.page} (open it in a browser)")


def _in_use() -> str | None:
    """Return who works in this folder; None also if only the lock of a dvc that has just ended is left for a moment."""
    from ddpm.pipeline.workspace import POLL_SECONDS, in_use

    for _ in range(3):
        if in_use() is None:
            return None
        time.sleep(POLL_SECONDS)
    return in_use()


def _decision(found: "Version | None", champion: "Version | None") -> str:
    from ddpm.promotion.gate import most_copies

    if found is None:
        return "not registered; register it with `dvc repro -f -s register`"
    decision = found.tags.get("decision", "not judged yet")
    decided = f"{found.name} version {found.number}: {decision}"
    if champion is None:
        return f"{decided}; there is no champion"
    if champion.number == found.number:
        return f"{decided}; it is the champion"
    record = champion.record() or {}
    copies = most_copies(record)
    measured = f"FID {_rounded(record.get('fid'))}, copies {'unknown' if copies is None else f'{copies:.2%}'}"
    return f"{decided}; the champion is version {champion.number} ({measured})"


def _mlflow_command() -> str:
    from ddpm.tracking.store import default_uri, shown_uri, tracking_uri

    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        return f"open {shown_uri()}"
    # The address may contain a password, so the command names the variable instead.
    store = shlex.quote(uri) if uri == default_uri() else '"$MLFLOW_TRACKING_URI"'
    # By default MLflow answers to hosts `10.*`, which include names such as 10.an.example that another site can use.
    return (
        f"MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {_program('mlflow')} server "
        "--workers 1 --allowed-hosts 127.0.0.1:5000,localhost:5000 "
        f"--backend-store-uri {store}\nthen open http://127.0.0.1:5000"
    )


def _program(name: str) -> str:
    """Return a command that starts the program from the working folder, whether or not the environment is active."""
    path = Path(sys.executable).parent / name
    try:
        return shlex.quote(str(path.relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(path))


def _rounded(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "-"


def _print_row(title: str, text: str, *, wrap: bool = True) -> None:
    lines = textwrap.wrap(text, width=96) if wrap else text.splitlines()
    for k, line in enumerate(lines):
        print(f"{title if k == 0 else '':12}{line}")
