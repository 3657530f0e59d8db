"""The commands of the registry: list the versions and the champions, promote, roll back."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ddpm.cli.model import registered_name, registry_of
from ddpm.errors import UserError
from ddpm.promotion.advice import promote_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddpm.promotion.admission import Canary
    from ddpm.promotion.registry import Version
    from ddpm.reporting.markdown import Table
    from ddpm.reporting.measurements import Protocols
    from ddpm.tracking.mlflow_registry import MlflowRegistry

_VERSIONS = (
    "version, aliases, decision, protocol, FID, floor, copies, KID, sampler, steps, started from, when, run, why"
)


def versions(args: argparse.Namespace) -> None:
    """Print a table of all versions, newest first, with a row for each protocol by which a version was measured."""
    from ddpm.reporting.markdown import Table
    from ddpm.reporting.measurements import Protocols

    registry, found = _registered(args)
    protocols, lapsed = Protocols(), _lapsed(found, registry)
    rows = [row for version in found for row in _rows(version, protocols, lapsed.get(version.number, ""))]
    print_table(Table(_VERSIONS.split(", "), rows))
    print("\n".join(["", *protocols.legend()]))


def history(args: argparse.Namespace) -> None:
    """Print every move of the alias `champion`, and every decision of a person, newest first."""
    from ddpm.reporting.history import history_table, in_order
    from ddpm.reporting.measurements import Protocols

    registry, found = _registered(args)
    events = in_order(registry.history(), registry.rulings())
    if not events:
        advice = promote_command(registry.name, found[0].number)
        raise UserError(f"{registry.name} has had no champion yet; make one with `{advice}`")
    protocols = Protocols()
    print_table(history_table(events, {version.number: version for version in found}, protocols))
    print("\n".join(["", *protocols.legend()]))


def promote(args: argparse.Namespace) -> None:
    """Make a version the champion, with the reason of the person who decided."""
    from ddpm.promotion.commands import promote

    reason = f"{args.reason} (without the canary)" if args.skip_canary else args.reason
    canary = None if args.skip_canary else canary_here()
    move = promote(registry_of(registered_name(args)), args.number, reason=reason, canary=canary)
    before = f" and replaces version {move.previous}" if move.previous else ""
    print(f"version {move.version} of {registered_name(args)} is now the champion{before}")


def rollback(args: argparse.Namespace) -> None:
    """Make the previous champion the champion again."""
    from ddpm.promotion.commands import rollback

    move = rollback(registry_of(registered_name(args)), reason=args.reason)
    print(
        f"version {move.version} of {registered_name(args)} is the champion again and replaces version "
        f"{move.previous}; `{promote_command(registered_name(args), move.previous or '')}` undoes this"
    )


def canary_here() -> "Canary":
    """Return the canary with the limits of the params.yaml in the working folder."""
    from ddpm.canary.examine import Examination
    from ddpm.params import load as load_params

    params = load_params()
    return Examination(limits=params.canary, device=params.runtime.device)


def print_table(table: "Table") -> None:
    """Print a table with aligned columns; a column without content is left out."""
    cells = [[_printable(cell) for cell in row] for row in (table.head, *table.rows)]
    columns = [column for column in zip(*cells, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _registered(args: argparse.Namespace) -> "tuple[MlflowRegistry, list[Version]]":
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    registry = MlflowRegistry(registered_name(args))
    found = registry.versions()
    if not found:
        raise UserError(f"nothing is registered as {registry.name}; `dvc repro` trains and registers a model")
    return registry, found


def _lapsed(found: "list[Version]", registry: "MlflowRegistry") -> dict[str, str]:
    """Return by number why versions that wait may not be approved any more; the next retraining rejects them."""
    from ddpm.promotion.approval import lapse, waiting

    if not waiting(found):
        return {}
    moves = registry.history()
    return {version.number: lapse(version, found, moves) or "" for version in waiting(found)}


def _rows(version: "Version", protocols: "Protocols", lapsed: str) -> "Iterator[tuple[str, ...]]":
    """Yield a row for each record of a version; the rows after the first have no more than its metrics.

    The last column has the rules that did not pass, after why the version may not be approved any more.
    """
    from ddpm.reporting.decisions import because, rules_of

    decision = ", ".join(filter(None, (version.tags.get("decision", ""), lapsed.partition(":")[0])))
    identity = (version.number, ", ".join(version.aliases), decision)
    when, run = f"{version.created.astimezone():%Y-%m-%d %H:%M}", version.run_id or ""
    try:
        records, started = version.records(), started_from(version.origin())
    except UserError as error:
        print(error, file=sys.stderr)
        yield (*identity, "", "lost", "", "", "", "", "", "", when, run, "")
        return
    for k, record in enumerate(records or [{}]):
        metrics = _metrics(record, protocols) if record else ("",) * 5
        drawing: dict[str, Any] = record.get("protocol", {}).get("drawing", {})
        sampling = (str(drawing.get("sampler", "")), str(drawing.get("steps", "")))
        if k == 0:
            yield (
                *identity,
                *metrics,
                *sampling,
                started,
                when,
                run,
                "; ".join(filter(None, (lapsed, because(rules_of(version))))),
            )
        else:
            yield (version.number, "", "", *metrics, *sampling, "", "", "", "")


def _metrics(record: "dict[str, Any]", protocols: "Protocols") -> tuple[str, ...]:
    from ddpm.promotion.gate import most_copies
    from ddpm.reporting.measurements import metric_text

    copies = most_copies(record)
    return (
        protocols.letter(record),
        metric_text(record, "fid"),
        metric_text(record.get("floor") or {}, "fid"),
        "" if copies is None else f"{copies:.2%}",
        metric_text(record, "kid"),
    )


def started_from(origin: "dict[str, Any]") -> str:
    """Return the model that a training started from; empty for untrained weights."""
    start = origin.get("start", {})
    if start.get("sha256") is None:
        return ""
    return f"version {start['version']}" if "version" in start else str(start["name"])


def _printable(cell: str) -> str:
    """Return a text as one line without control characters, because a terminal would execute those."""
    return " ".join("".join(character if character.isprintable() else " " for character in cell).split())
