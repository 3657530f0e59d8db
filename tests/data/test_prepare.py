"""A source becomes arrays, a manifest and facts: every file is accounted for, and no result depends on the machine."""

import dataclasses
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ddpm.data import manifest as stored
from ddpm.data.preparing.layout import ignored_as
from ddpm.data.preparing.prepare import prepare
from ddpm.data.preparing.reasons import (
    DAMAGED,
    DUPLICATE,
    EMPTY,
    LINK,
    NO_IMAGE,
    NO_NAME,
    OUTSIDE_CLASSES,
    OUTSIDE_SPLITS,
    TOO_LARGE,
    UNKNOWN_NAME,
)
from ddpm.data.preparing.settings import Data
from ddpm.data.reading.dataset import Facts, read_facts, read_split
from ddpm.errors import UserError
from ddpm.params import load as load_params

ROOT = Path(__file__).parents[2]
Run = Callable[..., Facts]


def draw(seed: int, size: tuple[int, int] = (12, 12), mode: str = "RGB") -> Image.Image:
    """Return noise that depends on the seed; `size` is (width, height)."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)


@pytest.fixture(scope="session")
def settings() -> Data:
    """The `data` section of params.yaml, for a folder."""
    return dataclasses.replace(load_params(ROOT / "params.yaml").data, source="folder")


@pytest.fixture
def run(settings: Data, tmp_path: Path) -> Callable[..., Facts]:
    """prepare() into tmp_path / "prepared"; keywords change settings."""

    def run_prepare(raw: Path, *, workers: int = 1, **changes: Any) -> Facts:
        return prepare(
            dataclasses.replace(settings, **changes),
            raw=raw,
            prepared=tmp_path / "prepared",
            workers=workers,
            progress=False,
        )

    return run_prepare


def fill(folder: Path, names: list[str], first_seed: int = 0, **options: object) -> Path:
    for seed, name in enumerate(names, first_seed):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(seed, **options).save(path)  # type: ignore[arg-type]
    return folder


def manifest(tmp_path: Path) -> pd.DataFrame:
    return pa.concat_tables(stored.read(tmp_path / "prepared")).to_pandas().set_index("path")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two classes of ten images; one image is in a folder inside its class folder."""
    names = [f"{label}/{k}.png" for label in ("cat", "dog") for k in range(9)]
    return fill(tmp_path / "raw", [*names, "cat/deep/er/9.png", "dog/deep/9.png"])


def test_digits_are_all_there_with_17_levels_rounded_to_255(run: Run, tmp_path: Path) -> None:
    facts = run(tmp_path, source="digits")
    assert (facts.found, facts.kept, facts.size, facts.channels, facts.train, facts.test) == (
        1797,
        1797,
        8,
        1,
        1438,
        359,
    )
    assert facts.classes == tuple("0123456789")
    levels = np.unique(read_split(tmp_path / "prepared", "train").images)
    assert levels.tolist() == [round(k * 255 / 16) for k in range(17)]


def test_the_arrays_are_memory_maps_that_later_stages_cannot_change(run: Run, raw: Path, tmp_path: Path) -> None:
    facts = run(raw)
    for name, n in (("train", facts.train), ("test", facts.test)):
        split = read_split(tmp_path / "prepared", name)
        assert isinstance(split.images, np.memmap)
        assert not split.images.flags.writeable
        assert split.images.shape == (n, 3, 12, 12)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert len(split.labels) == n
    assert read_facts(tmp_path / "prepared") == facts


def test_a_row_of_the_manifest_leads_to_its_pixels_and_label(run: Run, raw: Path, tmp_path: Path) -> None:
    facts = run(raw)
    rows = manifest(tmp_path)
    for path, row in rows.iterrows():
        split = read_split(tmp_path / "prepared", row["split"])
        original = np.asarray(Image.open(raw / path)).transpose(2, 0, 1)
        np.testing.assert_array_equal(split.images[row["index"]], original)
        assert facts.classes[split.labels[row["index"]]] == row["label"] == path.split("/")[0]
        assert row["mean"] == pytest.approx(original.mean())
        assert (row["original_width"], row["original_mode"], row["status"]) == (12, "RGB", "kept")


def test_a_flat_folder_has_no_labels(run: Run, tmp_path: Path) -> None:
    facts = run(fill(tmp_path / "raw", [f"{k}.png" for k in range(10)]))
    assert (facts.classes, facts.train, facts.test) == ((), 8, 2)
    assert read_split(tmp_path / "prepared", "train").labels is None
    assert manifest(tmp_path)["label"].isna().all()


def test_a_folder_that_contains_all_images_is_not_a_class(run: Run, tmp_path: Path) -> None:
    names = [f"photos/2024/{label}/{k}.png" for label in ("a", "b") for k in range(5)]
    assert run(fill(tmp_path / "raw", names)).classes == ("a", "b")


def test_classes_can_be_left_out(run: Run, raw: Path) -> None:
    facts = run(raw, labels=False)
    assert (facts.kept, facts.classes) == (20, ())


def test_hidden_files_and_text_are_ignored_and_folders_of_that_name_are_not() -> None:
    ignored = ["README.md", "a/README", "LICENSE", ".git/a.png", "a/._b.png", "__MACOSX/a.png", "a.json"]
    litter = ["a/Thumbs.db", "THUMBS.DB", "a/desktop.ini", ".DS_Store"]
    counted = ["readme/a.png", "license/b.png", "a/b.png", "a/no_suffix", "c.pdf", "txt", "desktop.png"]
    assert [path for path in ignored + litter + counted if ignored_as(path) is not None] == ignored + litter
    assert [ignored_as(path) for path in litter] == ["Thumbs.db", "Thumbs.db", "desktop.ini", ".DS_Store"]


@pytest.mark.parametrize("held_out", ["test", "val", "Test"])
def test_train_and_test_folders_are_the_split(run: Run, tmp_path: Path, held_out: str) -> None:
    names = [f"{split}/{label}/{k}.png" for split in ("train", held_out) for label in ("a", "b") for k in range(3)]
    facts = run(fill(tmp_path / "raw", names))
    assert (facts.train, facts.test, facts.classes) == (6, 6, ("a", "b"))
    rows = manifest(tmp_path)
    assert (rows["split"] == ["train" if path.startswith("train") else "test" for path in rows.index]).all()


def test_train_and_test_folders_may_be_flat(run: Run, tmp_path: Path) -> None:
    facts = run(fill(tmp_path / "raw", ["train/0.png", "train/1.png", "test/2.png"]))
    assert (facts.train, facts.test, facts.classes) == (2, 1, ())


def test_a_file_outside_the_splits_or_the_classes_is_rejected_with_its_reason(run: Run, tmp_path: Path) -> None:
    names = ["train/a/0.png", "train/b/1.png", "test/a/2.png", "val/a/3.png", "4.png", "train/5.png"]
    facts = run(fill(tmp_path / "raw", names))
    assert facts.rejected == {OUTSIDE_SPLITS: 2, OUTSIDE_CLASSES: 1}
    assert facts.kept + sum(facts.rejected.values()) == facts.found == 6


def test_the_remedies_in_the_reason_of_a_file_outside_the_classes_work(run: Run, tmp_path: Path) -> None:
    raw = fill(tmp_path / "raw", ["a/0.png", "a/1.png", "b/2.png", "b/3.png", "loose.png"])
    assert run(raw).rejected == {OUTSIDE_CLASSES: 1}
    assert "set data.labels to false" in manifest(tmp_path)["reason"]["loose.png"]
    facts = run(raw, labels=False)
    assert (facts.kept, facts.rejected) == (5, {})


def test_a_member_of_an_archive_without_a_usable_name_changes_nothing_for_the_others(
    run: Run, raw: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in sorted(raw.rglob("*.png")):
            archive.write(path, f"pictures/{path.relative_to(raw)}")
        with archive.open(zipfile.ZipInfo(""), "w") as member:
            member.write(b"x")
        archive.writestr("\u00e9/b.png", b"x")
    content = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(content.replace("\u00e9".encode(), b"\xff\xfe"))
    facts = run(tmp_path / "x.zip", source="archive")
    assert facts.classes == ("cat", "dog")
    assert facts.rejected == {NO_NAME: 1, UNKNOWN_NAME: 1}


def test_every_file_is_kept_or_rejected_or_ignored_and_says_why(run: Run, raw: Path, tmp_path: Path) -> None:
    (raw / "cat" / "notes.png").write_bytes(b"no image")
    (raw / "cat" / "cut.png").write_bytes((raw / "cat" / "0.png").read_bytes()[:200])
    Image.new("L", (200, 200)).save(raw / "dog" / "large.png")
    shutil.copy(raw / "cat" / "0.png", raw / "dog" / "copy.png")
    (raw / "dog" / "nothing.png").write_bytes(b"")
    for name in ("README.md", ".gitkeep", ".DS_Store", "cat/Thumbs.db", "labels.csv"):
        (raw / name).write_text("text")
    facts = run(raw, max_pixels=10_000)
    assert facts.rejected == {NO_IMAGE: 1, EMPTY: 1, DAMAGED: 1, TOO_LARGE: 1, DUPLICATE: 1}
    assert (facts.found, facts.kept) == (25, 20)
    assert facts.ignored == {"*.csv": 1, "*.md": 1, ".DS_Store": 1, "Thumbs.db": 1, "hidden files": 1}
    rows = manifest(tmp_path)
    assert len(rows) == 25
    assert rows["reason"].dropna().to_dict() == {
        "cat/notes.png": NO_IMAGE,
        "cat/cut.png": DAMAGED,
        "dog/large.png": TOO_LARGE,
        "dog/copy.png": DUPLICATE,
        "dog/nothing.png": EMPTY,
    }
    rejected = rows[rows["status"] == "rejected"]
    assert rejected[["split", "index", "pixel_sha256", "mean", "std"]].isna().all(axis=None)
    assert rejected["sha256"].notna().all()


def test_the_readme_of_the_raw_folder_does_not_count_as_rejected(run: Run, raw: Path) -> None:
    shutil.copy(ROOT / "data" / "raw" / "README.md", raw)
    facts = run(raw)
    assert (facts.rejected, facts.ignored) == ({}, {"*.md": 1})


def test_the_same_file_in_train_and_test_is_kept_for_validation_to_count(run: Run, tmp_path: Path) -> None:
    raw = fill(tmp_path / "raw", ["train/0.png", "train/1.png", "test/2.png"])
    shutil.copy(raw / "train" / "0.png", raw / "test" / "same.png")
    facts = run(raw)
    assert (facts.kept, facts.rejected) == (4, {})


def test_the_split_takes_its_fraction_of_every_class(run: Run, tmp_path: Path) -> None:
    names = [f"a/{k}.png" for k in range(50)] + [f"b/{k}.png" for k in range(10)] + ["c/0.png", "c/1.png"]
    run(fill(tmp_path / "raw", names), test_fraction=0.2)
    rows = manifest(tmp_path)
    assert rows[rows["split"] == "test"]["label"].value_counts().to_dict() == {"a": 10, "b": 2, "c": 1}


def test_the_split_follows_the_seed_and_not_the_order(run: Run, raw: Path, tmp_path: Path) -> None:
    def held_out(**changes: object) -> set[str]:
        run(raw, **changes)
        rows = manifest(tmp_path)
        return set(rows[rows["split"] == "test"]["pixel_sha256"])

    first = held_out()
    assert held_out(seed=1) != first
    for path in sorted(raw.rglob("*.png")):
        path.rename(path.with_name(f"{9 - int(path.stem)}-renamed.png"))
    assert held_out() == first


def test_equal_pixels_in_different_files_stay_on_one_side(run: Run, tmp_path: Path) -> None:
    raw = fill(tmp_path / "raw", [f"{k}.png" for k in range(40)])
    for path in sorted(raw.glob("*.png")):
        Image.open(path).save(path.with_suffix(".bmp"))
    run(raw)
    rows = manifest(tmp_path)
    assert len(rows) == 80
    assert (rows.groupby("pixel_sha256")["split"].nunique() == 1).all()


def test_the_result_does_not_depend_on_the_number_of_workers(run: Run, tmp_path: Path) -> None:
    raw = fill(tmp_path / "raw", [f"{'ab'[k % 2]}/{k}.png" for k in range(600)])
    (raw / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    contents = []
    for workers in (1, 2, 3):
        run(raw, workers=workers)
        files = sorted(path for path in (tmp_path / "prepared").rglob("*") if path.is_file())
        contents.append({str(path): path.read_bytes() for path in files})
    assert contents[0] == contents[1] == contents[2]
    assert len(contents[0]) == 10


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_gives_what_its_folder_gives(run: Run, raw: Path, tmp_path: Path, kind: str) -> None:
    expected = run(raw)
    archive = tmp_path / f"pets.{kind}"
    files = sorted(path for path in raw.rglob("*") if path.is_file())
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as opened:
            for path in reversed(files):
                opened.write(path, path.relative_to(raw.parent))
    else:
        with tarfile.open(archive, "w:gz") as opened:
            opened.add(raw, "pets")
    facts = run(archive, source="archive")
    assert (facts.name, facts.content_hash, facts.classes) == ("pets", expected.content_hash, expected.classes)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_files_of_one_name_and_links_in_an_archive_are_counted(run: Run, raw: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(raw, "raw")
        archive.add(raw / "cat" / "0.png", "raw/dog/1.png")
        link = tarfile.TarInfo("raw/cat/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "0.png"
        archive.addfile(link)
    facts = run(tmp_path / "x.tar", source="archive")
    assert (facts.found, facts.kept, facts.rejected) == (22, 20, {LINK: 1, DUPLICATE: 1})


def test_links_to_files_are_followed_and_links_to_folders_refused(run: Run, raw: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    fill(tmp_path / "elsewhere", ["1.png", "2.png"], first_seed=100)
    (raw / "bird").mkdir()
    for name in ("1.png", "2.png"):
        (raw / "bird" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "link").symlink_to(raw)
    facts = run(tmp_path / "link")
    assert (facts.found, facts.classes) == (22, ("bird", "cat", "dog"))
    (raw / "fish").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"in which fish \(a link to a folder\) cannot be data"):
        run(raw)


def test_the_content_hash_depends_on_pixels_labels_and_split_and_not_on_names(run: Run, raw: Path) -> None:
    first = run(raw).content_hash
    for path in sorted(raw.rglob("*.png")):
        path.rename(path.with_stem(f"{path.stem}x"))
    assert run(raw).content_hash == first
    assert run(raw, test_fraction=0.5).content_hash != first
    assert run(raw, labels=False).content_hash != first
    Image.open(raw / "cat" / "0x.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(raw / "cat" / "0x.png")
    assert run(raw).content_hash != first


def test_a_name_that_is_not_utf_8_is_escaped_in_the_manifest(run: Run, raw: Path) -> None:
    (raw / "cat" / "0.png").rename(raw / "cat" / "caf\udce9.png")
    with pytest.raises(UserError, match=r"in which cat/caf\\udce9\.png \(a name that is not UTF-8\) cannot be data"):
        run(raw)


def test_the_manifest_has_the_documented_columns(run: Run, raw: Path, tmp_path: Path) -> None:
    run(raw)
    names = "path split index status reason original_width original_height original_mode sha256 pixel_sha256 mean std"
    assert (
        " ".join(pq.read_schema(tmp_path / "prepared" / "manifest" / "part-00000.parquet").names)
        == f"{names} label caption no_caption"
    )
    assert json.loads((tmp_path / "prepared" / "dataset.json").read_text())["ignored"] == {}


def test_errors_are_one_sentence_and_leave_the_old_data(run: Run, raw: Path, tmp_path: Path) -> None:
    before = run(raw)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("text")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no")
    fill(tmp_path / "one", ["a.png"])
    for name, sentence in (
        ("missing", "was not found; give the folder"),
        ("empty", r"no images were found in .*\(1 hidden or text"),
        ("bad", "none of the 1 files in .* can be used: {'no image': 1}"),
        ("one", "no image is left for test"),
    ):
        with pytest.raises(UserError, match=sentence):
            run(tmp_path / name)
    with pytest.raises(UserError, match="contains the output"):
        run(tmp_path)
    assert read_facts(tmp_path / "prepared") == before
    assert not (tmp_path / ".prepared.part").exists()


def test_reading_data_that_were_not_prepared_says_what_to_do(tmp_path: Path) -> None:
    for read in (read_facts, lambda folder: read_split(folder, "train")):
        with pytest.raises(UserError, match="dvc repro prepare"):
            read(tmp_path)
