"""The pages of docs/ speak of settings and files that exist."""

import re
import subprocess
import sys
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


def commands() -> list[str]:
    """Every command of a benchmark in the README, in docs/ and beside the results."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
    pages += (ROOT / "benchmarks").glob("*.py")
    found = re.findall(
        r"python (benchmarks/\w+\.py(?:[ ]+(?:\\\\?\n)?[ ]*[\w./-]+)*)", "\n".join(p.read_text() for p in pages)
    )
    return sorted({" ".join(command.replace("\\", " ").split()) for command in found})


def test_the_benchmark_of_every_command_exists() -> None:
    named = {command.split()[0] for command in commands()}
    assert len(named) >= 6
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


@pytest.mark.slow  # imports torch and the benchmark, once for each
@pytest.mark.parametrize("script", sorted({command.split()[0] for command in commands()}))
def test_a_benchmark_starts_and_has_every_option_that_is_written_somewhere(script: str) -> None:
    helped = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert helped.returncode == 0, helped.stderr
    options = {word for command in commands() for word in command.split() if command.startswith(script)}
    assert {word for word in options if word.startswith("--")} <= set(re.findall(r"--[\w-]+", helped.stdout))
