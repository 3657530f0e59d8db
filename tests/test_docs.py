"""The pages of docs/ speak of settings and files that exist."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs/performance.md", ROOT / "docs/scaling.md", ROOT / "benchmarks/scaling_plan.py"]
PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())


LINKED = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site write them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_its_heading(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_navigation_once_and_in_no_other_order_than_people_need() -> None:
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    try:
        import build
    finally:
        sys.path.pop(0)
    sections = build.navigation()
    assert sections[0][1][0][1] == "../README.md"
    listed = [file for _, links in sections for _, file in links]
    assert len(listed) == len(set(listed))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages == {file for file in listed if not file.startswith("../")}
    assert set(build.RESULTS) == {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.md")}
    assert len(set(build.RESULTS.values())) == len(build.RESULTS)


@pytest.mark.slow  # half a minute: Sphinx reads and writes all pages
def test_the_site_is_built_without_a_warning_and_needs_no_other_server() -> None:
    built = subprocess.run([sys.executable, "docs/site/build.py"], cwd=ROOT, capture_output=True, text=True)
    assert (built.returncode, built.stderr) == (0, "")
    site = ROOT / "build" / "docs"
    pages = {path.relative_to(site): path.read_text() for path in site.rglob("*.html")}
    assert {Path("index.html"), Path("reference/params.html"), Path("reference/command-line.html")} <= set(pages)
    loaded = r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=\"(?:https?:)?//[^\"]*"
    assert [found for text in pages.values() for found in re.findall(loaded, text)] == []
    styles = "\n".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import)[\s\"']*(?:https?:)?//[^)]*", styles) == []
    assert "<math" in pages[Path("mathematics.html")]


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


OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
GAP = "…"
OF_PREFECT = {"Crashed", "Cancelled"}
"""States that have Prefect's own names."""
UNEXPLAINED = ("promotion/registry.py", "promotion/figures_beside.py", "tracking/parent.py", "tracking/run_json.py")
"""Files whose messages come from a person's own command and say all themselves."""


def text(node: ast.AST) -> str:
    """The text of a string in the code, with a gap for every value in it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text(part) for part in node.values)
    return GAP


@cache
def strings() -> list[str]:
    """Every string of the package and of the flows."""
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "flows").glob("*.py")]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    return [text(node) for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr)]


def messages() -> list[str]:
    rows = re.findall(r"^\| `([^`]+)` \| .+ \| .+ \|$", OPERATIONS, re.MULTILINE)
    assert len(rows) > 40
    return rows


def as_pattern(message: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part.strip()) for part in message.split(GAP)), re.DOTALL)


def test_the_code_has_every_message_that_is_explained() -> None:
    """Who changes a message, changes its row in docs/operations.md."""
    sought = set(messages()) - OF_PREFECT
    assert [each for each in sought if not any(as_pattern(each).search(said) for said in strings())] == []


def test_every_row_says_what_to_type_or_that_nothing_has_to_be_done() -> None:
    rows = [line for line in OPERATIONS.splitlines() if line.startswith("| `")]
    assert len(rows) == len(messages())
    assert all(row.rstrip(" |").rpartition("| ")[2] for row in rows)


def test_every_state_that_a_flow_ends_in_is_explained() -> None:
    def named() -> Iterator[str]:
        for file in (ROOT / "flows").glob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Completed", "Failed"):
                    yield from (text(word.value) for word in node.keywords if word.arg == "name")
        tree = ast.parse((ROOT / "flows" / "pages.py").read_text())
        names = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "state_name")
        for node in ast.walk(names):
            if isinstance(node, ast.Return) and node.value is not None:
                found = [text(part) for part in ast.walk(node.value) if isinstance(part, ast.Constant)]
                yield from (each for each in found if each[:1].isupper())

    states = set(named()) - {GAP, "Completed", "Unchanged"}
    assert {"Refused", "Waiting for approval", "Completed: promoted"} <= states
    assert states <= set(messages())


def test_every_error_of_the_registry_and_of_killed_work_is_explained() -> None:
    """Who adds an error there, adds a row to docs/operations.md that says what to type."""
    folders = ("src/ddpm/tracking", "src/ddpm/promotion")
    files = [path for folder in folders for path in (ROOT / folder).glob("*.py")]
    raised = [
        text(node.args[0])
        for file in files
        if not str(file).endswith(UNEXPLAINED)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError" and node.args
    ]
    assert len(raised) > 12
    explained = [as_pattern(message) for message in messages()]
    assert [each for each in raised if not any(pattern.search(each) for pattern in explained)] == []
