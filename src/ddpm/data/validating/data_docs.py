"""Data Docs: one page with the result of every check, which needs no network and is equal for equal data.

Great Expectations' own pages load their styles and the list of results from nine servers, so that offline their index
is empty, and they contain times and random ids, so that DVC would see a new output after every run.
"""

import html
from collections.abc import Sequence
from pathlib import Path

from ddpm.data.validating.rules import Outcome

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="UTF-8"><title>Data Docs</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }}
h1 {{ font-size: 1.4rem; }}
table {{ border-collapse: collapse; }}
th, td {{ border: 1px solid #d4d8dd; padding: .3rem .6rem; text-align: left; vertical-align: top; }}
th {{ background: #f2f4f6; }}
.passed {{ color: #13703a; }}
.failed {{ color: #b3261e; font-weight: 600; }}
</style></head>
<body>
<h1>Data Docs</h1>
<p>{count} expectations of data {name}, checked by Great Expectations: {verdict}.</p>
<table>
<tr><th></th><th>Expectation</th><th>Expected</th><th>Found</th><th>Rows</th><th>Table</th></tr>
{rows}
</table>
</body>
</html>
"""


def write(docs: Path, outcomes: Sequence[Outcome], *, run_name: str) -> None:
    """Write `docs`/index.html: for every rule its limit, what was found, and the rows that break it."""
    failed = sum(not outcome.passed for outcome in outcomes)
    verdict = f'<span class="failed">{failed} failed</span>' if failed else '<span class="passed">all passed</span>'
    rows = "\n".join(map(_row, outcomes))
    docs.mkdir(parents=True, exist_ok=True)
    page = _PAGE.format(count=len(outcomes), name=html.escape(run_name), verdict=verdict, rows=rows)
    (docs / "index.html").write_text(page, encoding="utf-8")


def _row(outcome: Outcome) -> str:
    rule = outcome.rule
    kind, mark = ("passed", "✓") if outcome.passed else ("failed", "✗")
    found = f"{outcome.observed} rows" if rule.check == "row_count" else f"{outcome.observed} break it"
    named = "<br>".join(html.escape(row) for row in outcome.rows)
    cells = (html.escape(rule.sentence), found, named, rule.table)
    return (
        f'<tr><td class="{kind}">{mark}</td><td class="{kind}">{html.escape(rule.name)}</td>'
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    )
