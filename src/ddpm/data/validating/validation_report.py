"""reports/validation.json: metrics for `dvc metrics show`, and every rule with its outcome."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.data.reading.dataset import Facts
from ddpm.data.validating.rules import Outcome

if TYPE_CHECKING:
    import pandas as pd


def write_report(
    path: Path, *, facts: Facts, tables: "Mapping[str, pd.DataFrame]", outcomes: Sequence[Outcome]
) -> None:
    """Write the report. Shares are in 0..1; darkest and brightest are means of an image, in 0..255."""
    classes, images = tables["classes"], tables["images"]
    report = {
        "passed": all(outcome.passed for outcome in outcomes),
        "expectations": len(outcomes),
        "failed": sum(not outcome.passed for outcome in outcomes),
        "found": facts.found,
        "kept": facts.kept,
        "rejected": facts.found - facts.kept,
        "rejected_share": round(1 - facts.kept / facts.found, 6),
        "train": facts.train,
        "test": facts.test,
        "test_duplicates": int(tables["test"]["same_as_in_train"].notna().sum()),
        "smallest_class_share": round(float(classes["share_of_equal"].min()), 6) if len(classes) else None,
        "darkest": round(float(images["mean"].min()), 3),
        "brightest": round(float(images["mean"].max()), 3),
        "details": [
            {
                "expectation": outcome.rule.name,
                "expected": outcome.rule.sentence,
                "passed": outcome.passed,
                "observed": outcome.observed,
                "remedy": outcome.rule.remedy,
                "rows": list(outcome.rows),
            }
            for outcome in outcomes
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
