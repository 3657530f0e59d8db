"""Great Expectations checks real prepared images against their limits, names the rows, and Data Docs show them."""

import argparse
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from ddpm.compute.executors import Crew
from ddpm.data.preparing import manifest_part
from ddpm.data.preparing.prepare import prepare
from ddpm.data.reading.dataset import read_facts, read_split
from ddpm.data.validating import data_docs
from ddpm.data.validating.checking import check_prepared
from ddpm.data.validating.rules import NAMED_ROWS, Outcome, failure, observed, rules
from ddpm.data.validating.settings import Validate
from ddpm.params import load as load_params
from ddpm.stages import validate
from ddpm.stages.stage import Stage

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "params.yaml")
IN_PAGE = "data:image/png;base64"
LENIENT = Validate(
    min_train_images=1,
    min_test_images=1,
    max_rejected_share=1.0,
    max_test_duplicates=100,
    min_class_share=0.0,
    max_upscaled_share=1.0,
    brightness=(0.0, 255.0),
    max_uncaptioned_share=0.0,
    max_caption_characters=1000,
    sample_rows=10_000,
)
SAMPLE = 6


@pytest.fixture(scope="module", params=[20_000, 7], ids=["one_part", "nine_parts"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 files: train 40 (class a 30, b 10), test 20; 3 broken, 2 of test also in train, 1 nearly black, 4 small."""
    folder = tmp_path_factory.mktemp("images")
    raw = folder / "raw"
    noise = np.random.default_rng(0).integers(0, 256, (60, 16, 16), np.uint8)
    for k, pixels in enumerate(noise):
        path = raw / ("train" if k < 40 else "test") / ("b" if k % 4 == 3 else "a") / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[:10, :10] if k in (4, 5, 6, 8) else pixels).save(path)
    for k in (0, 1, 2):
        (raw / "train" / "a" / f"{k}.png").write_bytes(b"broken")
    for source, target in (("train/b/3.png", "test/b/43.png"), ("train/b/7.png", "test/b/47.png")):
        shutil.copy(raw / source, raw / target)
    Image.new("L", (16, 16), 1).save(raw / "train" / "a" / "9.png")
    data = dataclasses.replace(PARAMS.data, source="folder", size=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_part, "_ROWS", request.param)
        prepare(data, raw=raw, prepared=folder / "prepared", workers=1, progress=False)
    return folder / "prepared"


IN_NINE_PARTS = pytest.mark.parametrize(
    "prepared", [pytest.param(20_000, marks=pytest.mark.slow), 7], ids=["one_part", "nine_parts"], indirect=True
)
"""For what the number of parts has little to do with."""


def outcomes_of(prepared: Path, docs: Path, **limits: Any) -> dict[str, Outcome]:
    """The outcomes that Great Expectations finds in all files, which are those of counters and a sample, too."""
    facts = read_facts(prepared)
    expected = rules(facts, dataclasses.replace(LENIENT, **limits))
    scratch = docs.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    with Crew(workers=1, cluster=None, threads=False, scratch=scratch) as crew:
        how = {"facts": facts, "crew": crew, "scratch": scratch}
        whole = check_prepared(prepared, expected, sample_rows=LENIENT.sample_rows, **how)
        sampled = check_prepared(prepared, expected, sample_rows=SAMPLE, **how)
    data_docs.write(docs, whole, facts=facts, limits=LENIENT, prepared=prepared)
    assert [outcome.rule for outcome in whole.outcomes] == list(expected)
    assert sampled.outcomes == whole.outcomes
    assert (whole.sample, sampled.sample) == (None, SAMPLE)
    return {outcome.rule.name: outcome for outcome in whole.outcomes}


def test_every_limit_that_is_exceeded_breaks_its_own_rule_and_names_the_rows(prepared: Path, tmp_path: Path) -> None:
    outcomes = outcomes_of(
        prepared,
        tmp_path / "docs",
        max_rejected_share=0.04,
        min_train_images=38,
        min_test_images=21,
        max_test_duplicates=1,
        max_upscaled_share=0.06,
        brightness=(2.0, 253.0),
        min_class_share=0.6,
    )
    broken = [outcome for outcome in outcomes.values() if not outcome.passed]
    assert [(outcome.rule.name, outcome.observed, (*outcome.rows, "")[0]) for outcome in broken] == [
        ("few files are rejected", 3, "train/a/0.png (reason no image)"),
        ("enough training images", 37, ""),
        ("enough test images", 20, ""),
        ("no image of test is in train", 2, "test/b/43.png (same_as_in_train train/b/3.png)"),
        ("images are not enlarged", 4, "train/a/4.png (original_shorter_side 10)"),
        ("brightness is in range", 1, "train/a/9.png (mean 1)"),
        ("classes are balanced", 1, "b (share_of_equal 0.5405)"),
    ]
    sentence = failure(list(outcomes.values()), show=2)
    assert "\n" not in sentence
    assert "raise data.test_fraction, or lower validate.min_test_images" in sentence
    named = re.findall(r"validate\.(\w+)", sentence)
    assert named == [
        *("max_rejected_share", "min_train_images", "min_test_images", "max_test_duplicates", "max_upscaled_share"),
        *("brightness", "min_class_share"),
    ]
    for outcome in broken:
        assert f"expected: {outcome.rule.name} ({outcome.rule.sentence}), but {observed(outcome)}" in sentence
        assert all(row in sentence for row in outcome.rows[:2])


@IN_NINE_PARTS
def test_a_limit_that_is_just_reached_is_not_broken(prepared: Path, tmp_path: Path) -> None:
    outcomes = outcomes_of(
        prepared,
        tmp_path / "docs",
        max_rejected_share=3 / 60,
        min_train_images=37,
        min_test_images=20,
        max_test_duplicates=2,
        max_upscaled_share=4 / 57,
        brightness=(1.0, 255.0),
        min_class_share=0.54,
    )
    assert [outcome.rule.name for outcome in outcomes.values() if not outcome.passed] == []


def damage_manifest(prepared: Path) -> None:
    import pandas as pd

    path = sorted((prepared / "manifest").iterdir())[-1]
    frame = pd.read_parquet(path)
    frame.loc[frame.index[-1], "index"] = frame.loc[frame.index[-2], "index"]
    frame.loc[frame.index[-1], "label"] = "nobody"
    frame.drop(frame.index[0]).to_parquet(path)


def test_data_that_were_damaged_later_are_found(prepared: Path, write_split, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "prepared")
    train, test = (np.array(read_split(prepared, name).images) for name in ("train", "test"))
    write_split(tmp_path / "prepared" / "train", train[:-1])
    write_split(tmp_path / "prepared" / "test", test[:, :, :8])
    damage_manifest(tmp_path / "prepared")
    outcomes = outcomes_of(tmp_path / "prepared", tmp_path / "docs")
    broken = {outcome.rule.name: outcome.rows for outcome in outcomes.values() if not outcome.passed}
    assert list(broken) == [
        "every file found is in the manifest",
        "every image has its own place",
        "arrays are as stated: height",
        "arrays are as stated: missing_rows",
        "every image has a known label",
    ]
    assert broken["arrays are as stated: height"] == ("test (height 8)",)


@IN_NINE_PARTS
def test_images_whose_digests_are_missing_are_not_taken_for_the_same(prepared: Path, tmp_path: Path) -> None:
    import pandas as pd

    shutil.copytree(prepared, tmp_path / "prepared")
    for path in sorted((tmp_path / "prepared" / "manifest").iterdir()):
        pd.read_parquet(path).assign(pixel_sha256=None).to_parquet(path)
    outcome = outcomes_of(tmp_path / "prepared", tmp_path / "docs")["no image of test is in train"]
    assert (outcome.observed, outcome.rows) == (0, ())


def test_a_class_without_a_training_image_is_named(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "prepared")
    path = tmp_path / "prepared" / "dataset.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"classes": ["a", "b", "c"]}))
    outcomes = outcomes_of(tmp_path / "prepared", tmp_path / "docs", min_class_share=0.1)
    assert outcomes["classes are balanced"].rows == ("c (share_of_equal 0)",)


@IN_NINE_PARTS
def test_images_without_labels_are_checked_by_the_other_rules(prepared: Path, tmp_path: Path) -> None:
    data = dataclasses.replace(PARAMS.data, source="folder", size=16, labels=False)
    prepare(data, raw=prepared.parent / "raw", prepared=tmp_path / "prepared", workers=1, progress=False)
    outcomes = outcomes_of(tmp_path / "prepared", tmp_path / "docs")
    assert all(outcome.passed for outcome in outcomes.values())
    assert "classes are balanced" not in outcomes


@IN_NINE_PARTS
def test_only_the_first_rows_are_named(prepared: Path, tmp_path: Path) -> None:
    outcome = outcomes_of(prepared, tmp_path / "docs", brightness=(254.0, 255.0))["brightness is in range"]
    assert (outcome.observed, len(outcome.rows)) == (57, NAMED_ROWS)


@IN_NINE_PARTS
def test_data_docs_name_what_failed_and_refer_to_nothing_outside_the_page(prepared: Path, tmp_path: Path) -> None:
    outcomes_of(prepared, tmp_path / "docs", brightness=(2.0, 253.0))
    page = (tmp_path / "docs" / "index.html").read_text(encoding="utf-8")
    assert "1 of 17 expectations failed" in page
    assert "the mean of every image is between 2.0 and 253.0" in page
    assert "train/a/9.png (mean 1)" in page
    outside = re.findall(r"(?:src|href)=\"([^\"]*)|url\(", page)
    assert {reference.partition(",")[0].partition("#")[0] for reference in outside} <= {"", "run.js", IN_PAGE}


@IN_NINE_PARTS
def test_equal_data_give_equal_data_docs(prepared: Path, tmp_path: Path) -> None:
    contents = []
    for name in ("first", "second"):
        outcomes_of(prepared, tmp_path / name, min_class_share=0.6)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert contents[0] == contents[1]


@IN_NINE_PARTS
def test_the_stage_stops_with_the_rows_and_leaves_report_and_docs(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = YAML(typ="safe")
    params = yaml.load((ROOT / "params.yaml").read_text())
    params["validate"] |= json.loads(json.dumps(dataclasses.asdict(LENIENT))) | {"brightness": [2.0, 253.0]}
    command = [sys.executable, "-m", "ddpm.stages.validate", "--prepared", str(prepared)]
    command += ["--report", "reports/validation.json", "--docs", "reports/data_docs"]
    command += ["--passed", "validated.json"]
    yaml.dump(params, tmp_path / "params.yaml")
    stopped = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert stopped.returncode == 1
    assert "error: expected: brightness is in range (" in stopped.stderr
    assert "train/a/9.png (mean 1)" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    report = json.loads((tmp_path / "reports" / "validation.json").read_text())
    assert (report["passed"], report["failed"], report["kept"], report["rejected"]) == (False, 1, 57, 3)
    assert (report["test_duplicates"], report["darkest"]) == (2, 1.0)
    assert [row["rows"] for row in report["details"] if not row["passed"]] == [["train/a/9.png (mean 1)"]]
    assert (tmp_path / "reports" / "data_docs" / "index.html").exists()
    assert not (tmp_path / "validated.json").exists(), "what training waits for"

    params["validate"]["brightness"] = [1.0, 253.0]
    yaml.dump(params, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    paths = {"report": "reports/validation.json", "docs": "reports/data_docs", "passed": "validated.json"}
    validate.main(Stage(argparse.Namespace(prepared=prepared, **{name: Path(path) for name, path in paths.items()})))
    report = json.loads((tmp_path / "reports" / "validation.json").read_text())
    assert (report["passed"], report["failed"]) == (True, 0)
    assert (tmp_path / "validated.json").exists()
    assert "All 17 expectations passed" in (tmp_path / "reports/data_docs/index.html").read_text(encoding="utf-8")


def test_the_digits_meet_the_limits_in_params_yaml(tmp_path: Path) -> None:
    facts = prepare(PARAMS.data, raw=tmp_path, prepared=tmp_path / "prepared", workers=1, progress=False)
    limits = dataclasses.asdict(PARAMS.validate)
    assert facts.kept == 1797
    assert all(outcome.passed for outcome in outcomes_of(tmp_path / "prepared", tmp_path / "docs", **limits).values())
