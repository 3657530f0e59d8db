"""Captions come from metadata files or text files, stand beside their images, and are validated and shown."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm.compute.executors import Crew
from ddpm.data import manifest
from ddpm.data.preparing.prepare import prepare
from ddpm.data.reading.captions import read_captions
from ddpm.data.reading.dataset import Facts, read_facts
from ddpm.data.validating import data_docs
from ddpm.data.validating.checking import check_prepared
from ddpm.data.validating.rules import rules
from ddpm.errors import UserError
from ddpm.params import load as load_params

ROOT = Path(__file__).parents[2]
N = 12
Prepare = Callable[..., Facts]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Twelve images in two folders, without captions."""
    for k in range(N):
        path = tmp_path / f"raw/{'ab'[k % 2]}/{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 10 + 5 * k, np.uint8)).save(path)
    return tmp_path / "raw"


@pytest.fixture
def prepared(tmp_path: Path) -> Prepare:
    """prepare() of a folder with captions into tmp_path / "prepared"; keywords change settings."""
    data = load_params(ROOT / "params.yaml").data

    def run(raw: Path, **changes: Any) -> Facts:
        settings = dataclasses.replace(data, **{"source": "folder", "captions": True} | changes)
        return prepare(settings, raw=raw, prepared=tmp_path / "prepared", workers=1, progress=False)

    return run


def metadata(raw: Path, captions: dict[str, str | None], folder: str = "") -> None:
    rows = [json.dumps({"file_name": name, "text": text}) for name, text in captions.items()]
    (raw / folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")


def stored(tmp_path: Path) -> dict[str, tuple[str | None, str | None]]:
    """Caption, and why there is none, of each path in the manifest."""
    rows = [row for part in manifest.read(tmp_path / "prepared") for row in part.to_pylist()]
    return {row["path"]: (row["caption"], row["no_caption"]) for row in rows}


def test_each_image_keeps_its_own_caption_in_the_order_of_its_split(
    raw: Path, prepared: Prepare, tmp_path: Path
) -> None:
    captions = {f"{'ab'[k % 2]}/{k:02d}.png": f"grey  number {k}\n" for k in range(N)}
    metadata(raw, captions)
    facts = prepared(raw)
    assert (facts.captions, facts.ignored) == (N, {})
    assert read_facts(tmp_path / "prepared").captions == N
    rows = [row for part in manifest.read(tmp_path / "prepared") for row in part.to_pylist()]
    for split in ("train", "test"):
        in_split = sorted((row["index"], row["mean"]) for row in rows if row["split"] == split)
        expected = [f"grey number {round((mean - 10) / 5)}" for _, mean in in_split]
        assert read_captions(tmp_path / "prepared" / split) == expected


def test_a_csv_in_each_folder_and_text_files_are_read_and_a_metadata_file_decides(
    raw: Path, prepared: Prepare, tmp_path: Path
) -> None:
    (raw / "a/metadata.csv").write_text('﻿text,file_name,more\n"red, round",00.png,x\nsmall,02.png,\n', encoding="utf-8")
    (raw / "a/02.txt").write_text("large")
    (raw / "b/01.txt").write_text("ﬂät\n")
    (raw / "b/03.txt").write_bytes(b"\xff\xfe")
    (raw / "b/05.txt").write_text(" \n")
    facts = prepared(raw)
    found = stored(tmp_path)
    assert found["a/00.png"] == ("red, round", None)
    assert found["a/02.png"] == ("small", None)
    assert found["b/01.png"] == ("ﬂät", None)
    assert found["b/03.png"] == (None, "not UTF-8")
    assert found["b/05.png"] == (None, "empty")
    assert found["b/07.png"] == (None, "missing")
    assert facts.captions == 3


def test_the_archive_of_a_folder_has_the_folder_s_captions(raw: Path, prepared: Prepare, tmp_path: Path) -> None:
    metadata(raw, {f"{k:02d}.png": f"dark {k}" for k in range(0, N, 2)}, "a")
    (raw / "b/01.txt").write_text("light")
    of_folder = prepared(raw), stored(tmp_path)
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", raw))
    of_archive = prepared(archive, source="archive"), stored(tmp_path)
    assert of_archive[1] == of_folder[1]
    assert of_archive[0].content_hash == of_folder[0].content_hash


def test_other_captions_are_other_data(raw: Path, prepared: Prepare) -> None:
    metadata(raw, {"a/00.png": "one"})
    first = prepared(raw).content_hash
    metadata(raw, {"a/00.png": "two"})
    assert prepared(raw).content_hash != first
    assert prepared(raw, captions=False).captions is None


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "metadata.jsonl",
            '{"file_name": "a/00.png", "text": null}\n{"file_name": 3, "text": "x"}',
            "metadata.jsonl, line 2, has no",
        ),
        (
            "metadata.jsonl",
            '{"file_name": "a/00.png", "text": "x"}\nnot json',
            "metadata.jsonl, line 2, has no file_name",
        ),
        ("metadata.jsonl", '{"file_name": "a/99.png", "text": "x"}', "has captions of a/99.png, which are no images"),
        ("metadata.jsonl", '{"file_name": "../a/00.png", "text": "x"}', "has captions of ../a/00.png, which are no"),
        ("metadata.jsonl", b"\xff\xfe", "metadata.jsonl is not UTF-8 at byte 0"),
        ("metadata.jsonl", '{"file_name": "a/00.png", "text": "x"}\n' * 2, "line 2, has a second caption of a/00.png"),
        ("metadata.jsonl", '{"file_name": "a/00.png", "caption": "x"}', "metadata.jsonl, line 1, has no file_name"),
        ("metadata.csv", "file_name,caption\na/00.png,x\n", "has the columns file_name, caption, but not both"),
        ("metadata.csv", 'file_name,text\na/00.png,"x\n', "is no row of a CSV file"),
        ("other.txt", "x", "of 12 images none has a caption"),
    ],
)
def test_a_metadata_file_that_says_nothing_about_the_images_is_one_sentence(
    raw: Path, prepared: Prepare, name: str, content: str | bytes, says: str
) -> None:
    (raw / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        prepared(raw)
    assert says in str(caught.value)


def test_a_separator_of_lines_inside_a_caption_is_a_space(raw: Path, prepared: Prepare, tmp_path: Path) -> None:
    written = json.dumps({"file_name": "a/00.png", "text": "one\u2028two"}, ensure_ascii=False)
    (raw / "metadata.jsonl").write_text(written, encoding="utf-8")
    (raw / "b/metadata.csv").write_text("file_name,text\r\n01.png,one\x85two\r\n03.png,x\r\n", encoding="utf-8")
    prepared(raw)
    found = stored(tmp_path)
    assert (found["a/00.png"][0], found["b/01.png"][0], found["b/03.png"][0]) == ("one two", "one two", "x")


def test_captions_in_hidden_folders_and_copies_by_macos_are_ignored_as_images_are(raw: Path, prepared: Prepare) -> None:
    metadata(raw, {"a/00.png": "one"})
    for folder in (".old", "__MACOSX"):
        (raw / folder).mkdir()
        metadata(raw, {"99.png": "gone"}, folder)
    facts = prepared(raw)
    assert facts.captions == 1
    assert facts.ignored == {"copies of file attributes by macOS": 1, "hidden files": 1}


def test_a_text_beside_no_image_is_counted_as_ignored(raw: Path, prepared: Prepare, tmp_path: Path) -> None:
    for name in ("a/00.TXT", "a/notes.txt", "b/1.txt"):
        (raw / name).write_text("loud")
    assert prepared(raw).ignored == {"*.txt": 2}
    assert stored(tmp_path)["a/00.png"] == ("loud", None)


def test_half_of_a_character_from_json_is_named_and_stops_nothing(raw: Path, prepared: Prepare, tmp_path: Path) -> None:
    (raw / "metadata.jsonl").write_text('{"file_name": "a/00.png", "text": "\\ud83d"}')
    prepared(raw)
    assert stored(tmp_path)["a/00.png"] == (None, "not UTF-8")


def test_missing_and_long_captions_break_their_rules_and_the_page_shows_captions(
    raw: Path, prepared: Prepare, tmp_path: Path
) -> None:
    captions = {f"{'ab'[k % 2]}/{k:02d}.png": f"<b>number {k}</b>" for k in range(N - 1)}
    metadata(raw, captions | {"a/00.png": "very " * 50 + "long", "a/02.png": " "})
    facts = prepared(raw)
    folder = tmp_path / "prepared"

    def broken(**limits: Any) -> dict[str, tuple[str, ...]]:
        changed = dataclasses.replace(load_params(ROOT / "params.yaml").validate, **limits)
        with Crew(workers=1, cluster=None, threads=True, scratch=tmp_path) as crew:
            checked = check_prepared(
                folder, rules(facts, changed), facts=facts, sample_rows=1000, crew=crew, scratch=tmp_path
            )
        data_docs.write(tmp_path / "docs", checked, facts=facts, limits=changed, prepared=folder)
        return {outcome.rule.name: outcome.rows for outcome in checked.outcomes if not outcome.passed}

    found = broken(max_caption_characters=100)
    assert found["captions are not too long"] == ("a/00.png (caption_characters 254)",)
    assert set(found["images have captions"]) == {"a/02.png (caption empty)", "b/11.png (caption missing)"}
    page = (tmp_path / "docs/index.html").read_text()
    assert "&lt;b&gt;number" in page
    assert "<b>number" not in page
    assert "10 of 12 images have a caption" in page
    assert "images have captions" not in broken(max_uncaptioned_share=0.2)


def test_captions_of_a_source_without_files_are_refused() -> None:
    with pytest.raises(ValueError, match="captions is true, but source is digits"):
        dataclasses.replace(load_params(ROOT / "params.yaml").data, source="digits", captions=True)
