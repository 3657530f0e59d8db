"""reports/report.html tells a stranger what happened, shows every text, runs none, and fits phone, paper and dark."""

import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from browser import visited
from fixed_contest import promote
from hostile import HOSTILE

from ddpm import last_run as last_run_of_files
from ddpm.data.previews import CLASS, Previews, write_previews
from ddpm.promotion.registry import RECORDS, Version
from ddpm.reporting.report_page import CLASSES, Images, LastRun, Run, report_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DRAWING = {"sampler": "dpmpp_2m", "steps": 10, "time_grid": "karras", "guidance": 1.0}
MEASURED = {
    "fid": 0.5,
    "interval": {"fid": {"low": 0.47, "high": 0.53}},
    "precision": 0.8,
    "floor": {"fid": 0.25, "precision": 0.9},
    "protocol": {"n": 100, "reference_n": 50, "seed": 0, "extractor": {"name": "classifier-64"}, "drawing": DRAWING},
}
REASONS = "fid 0.5 is within 20 times the floor 0.25; memorized_share 0.00% is within the limit of 5.00%"


def version(
    number: str = "3", decision: str = "promoted", record: dict[str, Any] | None = None, **tags: str
) -> Version:
    tags = {"decision": decision, "reasons": REASONS, "decided_by": "gate", "decided_at": NOW.isoformat()} | tags
    if record is None:
        return Version("ddpm", number, (), tags, "run-id", NOW)
    return Version("ddpm", number, (), tags | {RECORDS: "0"}, "run-id", NOW, read=lambda _: record)


def last_run(**changes: Any) -> LastRun:
    classes = changes.pop("classes", ("cat", "dog"))
    noise = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), np.uint8)
    content: dict[str, Any] = {
        "facts": {
            "name": "pets",
            "source": "folder",
            "channels": 3,
            "size": 16,
            "classes": classes,
            "train": 80,
            "test": 20,
            "found": 101,
            "kept": 100,
            "rejected": {"no image": 1},
            "content_hash": "c" * 64,
        },
        "validation": {"expectations": 17, "details": [{"passed": True}]},
        "data_docs": "reports/data_docs/index.html",
        "images": [Images(name, noise, noise[:2]) for name in classes],
        "measured": MEASURED,
        "curves": [
            {"images_seen": 100.0 * k, "loss": 1 / k, **{f"loss_noise_quarter_{q}": q / k for q in (1, 2, 3, 4)}}
            for k in range(1, 30)
        ],
        "lineage": {
            "data": "pets",
            "data_hash": "c" * 64,
            "code_hash": "d" * 64,
            "machine": {"device": "cpu"},
            "params": {
                "schedule": {"name": "cosine"},
                "objective": {"target": "v"},
                "train": {"images": 6000, "lr": 0.002},
            },
        },
        "promote": promote(),
        "neighbours": None,
        "damaged": None,
        "reactions": {},
        "run": Run(
            run_id="run-id",
            began=NOW,
            ended=NOW + timedelta(minutes=90),
            images_per_second=70.0,
            sampling_images_per_second=None,
            watts=None,
            tags={"mlflow.source.git.commit": "abcdef123456789", "git.dirty": "true"},
        ),
        "version": version(),
        "against": None,
        "champion": version(),
        "environment": {"Python": "3.11"},
    }
    return LastRun(**content | changes)


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data


def text_of(run: LastRun) -> str:
    return " ".join(Elements(report_page(run)).text.split())


def test_it_says_what_was_asked_what_came_out_what_was_decided_and_where_it_comes_from() -> None:
    text = text_of(last_run())
    for part in (
        "pets: version 3 became the champion",
        "FID 0.5 (0.470 to 0.530) (lower is better); real images, measured the same way, have 0.25",
        "colour images of 16 x 16 pixels in 2 classes on the 80 training images of pets, by showing it 6,000 images",
        "Generate 100 images with the sampler dpmpp_2m in 10 steps",
        "Make it the champion of ddpm if all rules hold: FID better by 10%; FID at most 5 times the floor; Copies by",
        "Decided by gate on 2026-03-01 at 12:00 UTC",
        "memorized_share 0.00% is within the limit of 5.00%",
        "101 files were found and 100 kept",
        "1 h 30 min from its beginning (2026-03-01 12:00 UTC)",
        "energy not known: only the power of NVIDIA GPUs is measured",
        "commit abcdef123456",
        "had changes that were not committed",
        "train.lr 0.002",
    ):
        assert part in text, part
    assert "older than the project" not in text


def test_commands_in_a_reason_are_shown_as_code_and_nothing_of_it_is_run() -> None:
    page = report_page(last_run(version=version(reasons="too old; run `ddpm gate <x>` again\nan odd ` stays")))
    assert "<li>too old; run <code>ddpm gate &lt;x&gt;</code> again</li>" in page
    assert "<li>an odd ` stays</li>" in page


def test_images_of_captions_stand_beside_their_captions(tmp_path: Path) -> None:
    (tmp_path / "generated").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (50, 1, 8, 8), np.uint8)
    captions = ["a <b>", "a cat"] * 2 + [None] + [f"number {k}" for k in range(45)]
    np.save(tmp_path / "generated/images.npy", pixels)
    (tmp_path / "generated/captions.json").write_text(json.dumps(captions))
    write_previews(tmp_path, Previews(np.arange(4), np.array([CLASS] * 4), pixels[:4]))
    images = list(last_run_of_files._images(tmp_path, tmp_path / "generated", ()))
    assert [each.name for each in images[:4]] == ["real training images", "a <b>", "a cat", "without a caption"]
    assert len(images) == CLASSES
    assert np.array_equal(images[1].generated, pixels[[0, 2]])
    text = text_of(last_run(images=images, lineage=last_run().lineage | {"params": {"condition": "text"}}))
    assert "Generated images with their captions" in text
    assert all(each.name in text for each in images)


def test_the_champion_has_a_column_only_if_it_was_measured_the_same_way() -> None:
    same = MEASURED | {"fid": 0.75}
    other = MEASURED | {"protocol": {**MEASURED["protocol"], "n": 7}}
    beside = text_of(last_run(against=version("2", record=same)))
    assert "champion then, version 2" in beside
    assert "and the champion then had 0.75" in beside
    assert "disagree" not in beside
    by_two = {"protocol": {**MEASURED["protocol"], "second": {"name": "rotation-64"}}}
    worse = version("2", record=same | by_two | {"fid_second": 0.3})
    assert (
        "The two extractors disagree: FID is better than the champion's by classifier-64, but worse by rotation-64."
        in text_of(last_run(against=worse, measured=MEASURED | by_two | {"fid_second": 0.4}))
    )
    apart = text_of(last_run(against=version("2", record=other)))
    assert "champion then, version 2" not in apart
    assert "measured by another protocol" in apart


@pytest.mark.parametrize(
    ("decision", "advised", "not_advised"),
    [
        ("pending", ['ddpm approve 4 --reason "why"', 'ddpm approve 4 --reject --reason "why"'], "ddpm promote"),
        ("kept", ['ddpm promote 4 --reason "why"'], "ddpm approve"),
    ],
)
def test_the_next_steps_are_those_that_the_decision_leaves(decision: str, advised: list[str], not_advised: str) -> None:
    text = text_of(last_run(version=version("4", decision)))
    assert all(command in text for command in advised)
    assert not_advised not in text


@pytest.mark.parametrize(("condition", "words"), [("text", "by their captions"), ("image", "from degraded ones")])
def test_a_model_of_captions_or_of_pictures_was_not_asked_for_classes(condition: str, words: str) -> None:
    lineage = last_run().lineage
    asked = {"params": lineage["params"] | {"condition": condition}}
    text = text_of(last_run(lineage=lineage | asked))
    assert f"16 x 16 pixels {words} on the 80 training images" in text


def test_the_page_of_a_model_of_latents_says_so() -> None:
    of_latents = last_run().lineage | {"autoencoder": {"sha256": "0" * 64}}
    assert "model of the latents of" in text_of(last_run(lineage=of_latents))


def test_energy_is_the_mean_power_times_the_time() -> None:
    run = last_run().run
    assert run is not None
    measured = Run(**{**vars(run), "watts": 200.0})
    assert "about 300 Wh: GPUs at 200 W on average" in text_of(last_run(run=measured))


def test_a_run_that_nothing_is_known_of_still_has_a_page() -> None:
    text = text_of(
        last_run(run=None, version=None, champion=None, lineage={}, curves=[], images=[], classes=(), measured={})
    )
    assert "pets: not registered" in text
    assert "MLflow does not have the training's run" in text


def test_results_that_are_older_than_the_project_are_marked_first() -> None:
    text = text_of(last_run(outdated="train.lr changed since this run"))
    assert text.index("older than the project") < text.index("What was asked")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_every_text_is_shown_and_none_is_run(hostile: str) -> None:
    clean = Elements(report_page(last_run()))
    facts = dict(last_run().facts) | {"name": hostile, "rejected": {hostile: 1}, "classes": (hostile, "dog")}
    page = report_page(
        last_run(
            facts=facts,
            classes=(hostile, "dog"),
            version=version("3", reasons=hostile, decided_by=hostile),
            data_docs=hostile,
            outdated="",
        )
    )
    found = Elements(page)
    assert {tag for tag, _ in found.tags} == {tag for tag, _ in clean.tags}
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert not re.search("[\u202e\u200b]", page)


def test_it_is_one_file_without_outside_references_and_every_picture_has_a_text() -> None:
    for tag, attributes in Elements(report_page(last_run())).tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        assert tag not in ("script", "link", "iframe", "object")
        assert tag != "img" or attributes["alt"]
        assert tag != "svg" or attributes["aria-label"]


def test_a_thousand_classes_are_counted_and_not_all_shown() -> None:
    run = last_run(classes=tuple(f"class {k}" for k in range(1000)))
    page = report_page(run)
    assert sum(tag == "img" for tag, _ in Elements(page).tags) == 2 * CLASSES
    assert f"and {1000 - CLASSES} more classes" in page
    assert len(page) < 2e6


def test_in_a_browser_it_fits_a_phone_and_is_dark_on_a_dark_screen_and_light_on_paper(
    tmp_path: Path, browser: "Browser"
) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_page(last_run(classes=("a" * 200, "dog"))), encoding="utf-8")
    background = "getComputedStyle(document.body).backgroundColor"
    for width in (400, 1400):
        with visited(browser, path.as_uri(), width=width, height=800) as visit:
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
            assert visit.page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            assert visit.page.evaluate(background) == "rgb(255, 255, 255)"
            visit.page.emulate_media(color_scheme="dark")
            assert visit.page.evaluate(background) != "rgb(255, 255, 255)"
            visit.page.emulate_media(color_scheme="dark", media="print")
            assert visit.page.evaluate(background) == "rgb(255, 255, 255)"
            assert not visit.complaints
            assert not visit.outside
