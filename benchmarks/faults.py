"""A table of faults: how often each was tried, how often something was lost, and the seconds until the stage was done.

    FAULTS_ROWS=rows.jsonl pytest -m slow tests/faults
    python benchmarks/faults.py rows.jsonl --output benchmarks/results/faults.md

The tests add a line to the file for each try. Lines of several runs of the tests may be in one file. What a person
wrote below the heading `## Notes` of the page stays.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import command, machine, table, write

from ddpm.errors import UserError

STAGES = ("prepare", "train", "sample", "evaluate", "register")
NOTES = "## Notes\n"
KEYS = {"fault", "stage", "seconds", "started again", "lost"}
TEXT = """\
# What faults cost

Each fault happened at a random moment in the middle of a stage of a small pipeline (pictures of 8x8 pixels) with real
servers of Prefect and MLflow, a worker, flows and DVC, on one machine, and at several stages, one after the other.
Afterwards nothing was done by hand; if the retraining had ended, the next one was started, as the schedule does.

Lost: something that Prefect or MLflow calls running and is not, a version that is missing or twice, a champion other
than the new version, a file that is not the recorded one, or something that `ddpm doctor` finds. The columns of stages
have the most seconds from the end of the fault to the stage's end, a dash where it was not tried. The first row has the
seconds of the stages without a fault, which are part of the others; they say how busy the machine was."""


def rows(path: Path) -> list[dict[str, Any]]:
    """The tries in a file of the tests. Raises UserError if a line is none."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
            if not row.keys() >= KEYS:
                raise ValueError
        except (AttributeError, ValueError):
            raise UserError(
                f"line {number} of {path} is no try of a fault, expected an object with {', '.join(sorted(KEYS))}; "
                "give a file that the tests wrote"
            ) from None
        found.append(row)
    return found


def of_fault(fault: str, tries: Sequence[dict[str, Any]]) -> dict[str, str]:
    """A row of the table."""
    return {
        "fault": fault,
        "tried": str(sum(each["started again"] is not None for each in tries)),
        "lost": str(sum(bool(each["lost"]) for each in tries)),
        "new retraining needed": str(sum(each["started again"] or 0 for each in tries)),
    } | {stage: _longest([each["seconds"] for each in tries if each["stage"] == stage]) for stage in STAGES}


def _longest(seconds: Sequence[float]) -> str:
    return f"{max(seconds):.0f}" if seconds else "-"


def notes_of(page: Path | None) -> str:
    """The hand-written end of a page that exists already, beginning with its heading; empty if there is none."""
    if page is None or not page.exists():
        return ""
    _, heading, notes = page.read_text(encoding="utf-8").partition(f"\n{NOTES}")
    return (heading + notes).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="file that the tests wrote")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    tries = rows(args.rows)
    faults = list(dict.fromkeys(each["fault"] for each in tries))
    lines = [of_fault(fault, [each for each in tries if each["fault"] == fault]) for fault in faults]
    parts = [TEXT, table(lines), machine("cpu"), f"`{command()}`", notes_of(args.output)]
    write(args.output, "\n\n".join(part for part in parts if part))


if __name__ == "__main__":
    main()
