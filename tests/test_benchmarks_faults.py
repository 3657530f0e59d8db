"""The table of faults says what the tests wrote, and refuses what they did not write."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ddpm.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def faults() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("faults")
        for name in ("faults", "common"):
            del sys.modules[name]


def test_a_fault_has_its_tries_what_was_lost_and_the_longest_time_at_each_stage(faults: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    tries = [("train", 4.0, 1, []), ("train", 9.4, 0, []), ("register", 2.0, 1, ["a model is two versions"])]
    rows = [dict(zip(("stage", "seconds", "started again", "lost"), each, strict=True)) for each in tries]
    path.write_text("".join(json.dumps({"fault": "power cut", **row}) + "\n" for row in rows))
    found = faults.of_fault("power cut", faults.rows(path))
    assert [found[key] for key in ("tried", "lost", "new retraining needed")] == ["3", "1", "2"]
    assert [found[stage] for stage in ("prepare", "train", "register")] == ["-", "9", "2"]


@pytest.mark.parametrize("line", ["no JSON", "[]", '{"fault": "power cut"}'])
def test_a_line_of_another_form_is_named(faults: Any, tmp_path: Path, line: str) -> None:
    (tmp_path / "rows.jsonl").write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"line 1 of .* is no try of a fault"):
        faults.rows(tmp_path / "rows.jsonl")


def test_notes_of_the_page_stay_when_it_is_written_anew(
    faults: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, page = tmp_path / "rows.jsonl", tmp_path / "page.md"
    rows.write_text(json.dumps({"fault": "x", "stage": "train", "seconds": 1, "started again": 0, "lost": []}) + "\n")
    monkeypatch.setattr(sys, "argv", ["faults.py", str(rows), "--output", str(page)])
    faults.main()
    before = page.read_text()
    page.write_text(f"{before}\n## Notes\n\nOthers used the machine.\n\n| a | b |\n")
    with rows.open("a") as file:
        file.write(json.dumps({"fault": "y", "stage": "train", "seconds": 1, "started again": 0, "lost": []}) + "\n")
    faults.main()
    after = page.read_text()
    assert "## Notes" not in before
    assert "| y |" in after
    assert after.endswith("\n## Notes\n\nOthers used the machine.\n\n| a | b |\n")
