"""The pages of docs/ speak of settings and files that exist."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs/performance.md", ROOT / "docs/scaling.md", ROOT / "benchmarks/scaling_plan.py"]
PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_a_page_names_is_in_params_yaml(page: Path) -> None:
    named = set(re.findall(rf"`({'|'.join(PARAMS)})\.(\w+)[:`]", page.read_text()))
    assert [f"{section}.{key}" for section, key in sorted(named) if key not in PARAMS[section]] == []


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"(?:src|tests|benchmarks|docs)/[\w/]+\.(?:py|md)", page.read_text()))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(("page", "name"), [(PAGES[0], "where_time_goes"), (PAGES[1], "scaling_parts")])
def test_what_a_benchmark_writes_has_its_place(page: Path, name: str) -> None:
    text = page.read_text()
    assert text.count(f"<!-- begin {name} -->") == text.count(f"<!-- end {name} -->") == 1
