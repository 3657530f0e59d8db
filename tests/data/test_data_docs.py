"""Data Docs show a person the data: pictures of every class, rejected and suspicious files, and when it was checked."""

import dataclasses
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from browser import visited
from dvc.repo import Repo
from PIL import Image
from ruamel.yaml import YAML

from ddpm.compute.executors import Crew
from ddpm.data import manifest
from ddpm.data.preparing.chosen_previews import training_rows
from ddpm.data.preparing.prepare import prepare
from ddpm.data.previews import CLASS, REJECTED, SIDE, Previews, read_previews
from ddpm.data.reading.dataset import Facts, read_facts
from ddpm.data.validating import data_docs
from ddpm.data.validating.checking import Checked, check_prepared
from ddpm.data.validating.counting import Counted
from ddpm.data.validating.rules import Outcome, rules
from ddpm.data.validating.shown_files import Shown
from ddpm.params import load as load_params

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "params.yaml")
LINES_OF_CELLS = """() => Object.fromEntries(
  [...document.querySelectorAll("table th:first-child, table th:last-child, table td:first-child")].map(cell => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    return [cell.innerText, new Set([...range.getClientRects()].map(box => box.top)).size];
  }))"""
"""The lines of text that each of these cells takes on the screen."""
HOSTILE = ("<script>alert(1)</script>", 'a "quote" & `b` | c', "line\nbreak", "right\u202eleft")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80-pixel photographs in classes of hostile names; rejected: a copy, one cut off, one loose, one empty, a text."""
    folder = tmp_path_factory.mktemp("docs")
    noise = np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), np.uint8)
    for k, pixels in enumerate(noise):
        path = folder / "raw" / HOSTILE[k % 4].replace("/", "∕") / f"{k} <b>.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((80, 80)).save(path)
    first = folder / "raw" / HOSTILE[1]
    (first / "copy.png").write_bytes((first / "1 <b>.png").read_bytes())
    Image.fromarray(noise[0]).resize((80, 80)).save(first / "cut.png", compress_level=0)
    (first / "cut.png").write_bytes((first / "cut.png").read_bytes()[:12_000])
    Image.fromarray(noise[1]).save(folder / "raw" / "loose.png")
    (first / "empty.png").write_bytes(b"")
    (first / "text.png").write_text("text")
    (first / "Thumbs.db").write_text("x")
    data = dataclasses.replace(PARAMS.data, source="folder", size=80)
    prepare(data, raw=folder / "raw", prepared=folder / "prepared", workers=1, progress=False)
    return folder / "prepared"


def passing(facts: Facts) -> list[Outcome]:
    return [Outcome(rule, True, 0, ()) for rule in rules(facts, PARAMS.validate)]


def written(prepared: Path, docs: Path, checked: Checked | None = None, facts: Facts | None = None) -> str:
    facts = read_facts(prepared) if facts is None else facts
    docs.mkdir(exist_ok=True, parents=True)
    if checked is None:
        with Crew(workers=1, cluster=None, threads=False, scratch=docs) as crew:
            how = {"facts": facts, "sample_rows": PARAMS.validate.sample_rows, "crew": crew, "scratch": docs}
            checked = check_prepared(prepared, rules(facts, PARAMS.validate), **how)
    checked = dataclasses.replace(checked, outcomes=passing(facts))
    data_docs.write(docs, checked, facts=facts, limits=PARAMS.validate, prepared=prepared)
    return (docs / data_docs.INDEX).read_text(encoding="utf-8")


class Images(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.alts: list[str] = []
        self.scripts: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        if tag == "img":
            self.alts.append(named["alt"] or "")
        elif tag == "script":
            self.scripts.append(named.get("src"))


def test_every_class_has_pictures_and_rejected_files_have_theirs_or_their_names(prepared: Path, tmp_path: Path) -> None:
    page = written(prepared, tmp_path)
    alts = Images(page).alts
    assert sum(alt.startswith("training images of ") for alt in alts) == 4
    rejected = page[page.index("Rejected files") : page.index("<h2>Classes")]
    for path, reason in (("copy.png", "duplicate"), ("cut.png", "truncated"), ("loose.png", "outside the class")):
        assert any(path in alt for alt in Images(rejected).alts), f"no picture of {path}"
        assert f"1 × {reason}" in rejected
    assert "same as " in rejected
    for path, reason in (("empty.png", "empty file (0 bytes)"), ("text.png", "no image")):
        assert path in rejected
        assert f"1 × {reason}" in rejected
    assert str(prepared / "rejected.csv") in rejected
    assert "1 Thumbs.db" in page


def test_a_truncated_file_shows_what_could_be_read(prepared: Path) -> None:
    previews = read_previews(prepared).of(REJECTED)
    paths = manifest.rows_at(prepared, previews.row, ["path"])["path"].to_pylist()
    at = [path.endswith("cut.png") for path in paths].index(True)
    image = previews.pixels[at]
    assert image.shape == (3, SIDE, SIDE)
    assert image[:, : SIDE // 2].std() > 10
    assert image[:, -2:].std() == 0


def test_names_of_files_and_classes_are_shown_and_never_run(prepared: Path, tmp_path: Path) -> None:
    page = written(prepared, tmp_path)
    assert Images(page).scripts == ["run.js"]
    assert "<b>" not in page
    assert "\u202e" not in page
    for name in ("&lt;script&gt;alert(1)&lt;", "line\\nbreak", "right\\u202eleft", "&#34;quote&#34; &amp; `b` | c"):
        assert name in page


def test_the_date_is_beside_the_page_in_a_file_that_dvc_does_not_hash(prepared: Path, tmp_path: Path) -> None:
    first = written(prepared, tmp_path)
    data_docs.write_run(tmp_path)
    run = (tmp_path / data_docs.RUN).read_text()
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC, Great Expectations \d", run)
    assert not re.search(r"\d{4}-\d\d-\d\d", first)
    stage = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]["validate"]
    docs = stage["cmd"].split()[stage["cmd"].split().index("--docs") + 1]
    assert f"/{docs}/{data_docs.RUN}" in (ROOT / ".dvcignore").read_text().splitlines()
    (tmp_path / "p").mkdir()
    (tmp_path / "p/dvc.yaml").write_text(f"stages: {{v: {{cmd: 'true', outs: [{docs}]}}}}\n")
    (tmp_path / "p/.dvcignore").write_text((ROOT / ".dvcignore").read_text())
    written(prepared, tmp_path / "p" / docs)

    Repo.init(str(tmp_path / "p"), no_scm=True).close()
    with Repo(str(tmp_path / "p")) as repo:
        repo.commit(force=True)
        data_docs.write_run(tmp_path / "p" / docs)
        assert repo.status() == {}


def test_a_million_images_in_thousands_of_classes_make_a_page_of_bounded_size(tmp_path: Path) -> None:
    kept, lost, classes = 400_000, 600_000, tuple(f"class {k}" for k in range(1200))
    n = kept + lost
    facts = Facts("many", "folder", 3, 64, classes, kept - 4000, 4000, n, kept, {"no image": lost}, "0" * 64)
    counted = Counted(
        rows={"files": n, "images": kept, "train": kept - 4000, "test": 4000},
        classes={"train": Counter(dict.fromkeys(classes, 330)), "test": Counter(dict.fromkeys(classes, 3))},
        brightness=np.full(32, kept // 32),
        sides=Counter(dict.fromkeys(range(10, 3010), kept // 3000)),
        rejected={"no image": [f"{k}.png" for k in range(kept, kept + 30)]},
    )
    noise = np.random.default_rng(0).integers(0, 256, (1000, 3, SIDE, SIDE), np.uint8)
    shown = Shown(
        Previews(np.arange(1000), np.full(1000, CLASS), noise),
        [{"path": f"{k}.png", "label": classes[k]} for k in range(1000)],
    )
    page = written(tmp_path, tmp_path, Checked([], counted, shown, sample=100_000), facts)
    assert "a sample of 100,000 of 1,000,000 files" in page
    assert len(page) < 8e6
    assert len(Images(page).alts) == 1000
    assert "and 200 more classes" in page


def test_previews_are_evenly_spaced_and_bounded() -> None:
    labels = np.repeat(np.arange(1500), 200)
    rows = training_rows(np.zeros(len(labels), np.int8), labels, 1500)
    assert (len(rows), labels[rows].tolist()) == (1000, list(range(1000)))
    rows = training_rows(np.zeros(1000, np.int8), np.repeat([0, 1], [990, 10]), 2)
    assert rows.tolist() == [*range(0, 990, 99), *range(990, 1000)]
    assert len(training_rows(np.zeros(10**6, np.int8), np.full(10**6, -1), 0)) == 60


def test_in_a_browser_the_page_fits_a_phone_and_says_when_the_data_were_checked(
    prepared: Path, tmp_path: Path, browser: "Browser"
) -> None:
    written(prepared, tmp_path)
    address = (tmp_path / data_docs.INDEX).as_uri()
    for width in (400, 1400):
        with visited(browser, address, width=width, height=800) as visit:
            assert "The date is in run.js" in visit.page.inner_text("#run")
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
            assert visit.page.evaluate(LINES_OF_CELLS) == {"Result": 1, "Asset": 1, "passed": 1}
            assert visit.outside == []
    data_docs.write_run(tmp_path)
    with visited(browser, address) as visit:
        assert "UTC" in visit.page.inner_text("#run")
        assert visit.page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert visit.complaints == []
