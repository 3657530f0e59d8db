"""reports/validation.json: metrics for `dvc metrics show`, and every rule with its outcome."""

import json
from pathlib import Path

from ddpm.data.reading.dataset import Facts
from ddpm.data.validating.checking import Checked
from ddpm.data.validating.tables import share_of_equal


def write_report(path: Path, checked: Checked, *, facts: Facts) -> None:
    """Write the report. Shares are in 0..1; darkest and brightest are means of an image, in 0..255."""
    outcomes, counted = checked.outcomes, checked.counted
    shares = [share_of_equal(counted, name, len(facts.classes)) for name in facts.classes]
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
        "test_duplicates": counted.twins.images,
        "smallest_class_share": round(min(shares), 6) if shares else None,
        "darkest": round(counted.darkest, 3),
        "brightest": round(counted.brightest, 3),
        **({} if checked.sample is None else {"sample": checked.sample}),
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
