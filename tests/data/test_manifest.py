"""The manifest is written in parts by any crew, read part by part, and counted as if it were one table."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import simulated_manifest
from simulated_manifest import simulate

from ddpm.compute import executors
from ddpm.compute.executors import Crew
from ddpm.data import manifest
from ddpm.data.reading.dataset import read_facts
from ddpm.data.validating import twins
from ddpm.data.validating.counting import Counted, count
from ddpm.data.validating.rules import rules
from ddpm.data.validating.sample import sampled
from ddpm.data.validating.twins import find_twins
from ddpm.data.validating.unique_places import repeated, runs_of
from ddpm.errors import UserError
from ddpm.params import load as load_params

ROOT = Path(__file__).parents[2]
FILES = 10_000


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,000 files in ten parts."""
    folder = tmp_path_factory.mktemp("simulated") / "prepared"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated_manifest, "PART", 1000)
        simulate(folder, FILES)
    return folder


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    with Crew(workers=2, cluster=None, threads=False, scratch=tmp_path) as crew:
        yield crew


def whole(prepared: Path) -> pd.DataFrame:
    return pa.concat_tables(manifest.read(prepared)).to_pandas()


def counted_by(crew: Crew, prepared: Path, scratch: Path) -> Counted:
    limits = dataclasses.replace(load_params(ROOT / "params.yaml").validate, brightness=(20.0, 230.0))
    return count(prepared, rules(read_facts(prepared), limits), crew=crew, scratch=scratch)


def test_rows_at_any_places_are_read_in_the_order_that_is_asked_for(prepared: Path) -> None:
    files = whole(prepared)
    rows = np.array([9_999, 0, 1000, 999, 0, 5_432])
    read = manifest.rows_at(prepared, rows).to_pandas()
    pd.testing.assert_frame_equal(read, files.iloc[rows].reset_index(drop=True), check_dtype=False)
    assert len(manifest.rows_at(prepared, np.empty(0, np.int64))) == 0
    with pytest.raises(IndexError, match="10000 rows"):
        manifest.rows_at(prepared, np.array([FILES]))


def test_indices_continue_from_part_to_part(prepared: Path) -> None:
    files = whole(prepared)
    for split, n in (("train", 8800), ("test", 1000)):
        assert files["index"][files["split"] == split].tolist() == list(range(n))


def test_a_missing_part_and_a_file_that_is_no_part_are_named(tmp_path: Path) -> None:
    folder = tmp_path / manifest.FOLDER
    folder.mkdir()
    for name in ("part-00000.parquet", "part-00002.parquet"):
        (folder / name).touch()
    with pytest.raises(UserError, match=r"has 2 parts of a manifest, among them no part-00001\.parquet; .* prepare"):
        manifest.parts(tmp_path)
    (folder / "part-00002.parquet").rename(folder / "part-00001 (copy).parquet")
    with pytest.raises(UserError, match=r"among them no part-00001\.parquet"):
        manifest.parts(tmp_path)


def test_a_manifest_that_is_missing_or_damaged_says_what_to_do(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no part of a manifest; create it with `dvc repro"):
        manifest.parts(tmp_path)
    (tmp_path / "manifest").mkdir()
    part = manifest.part_path(tmp_path, 0)
    part.write_bytes(manifest.part_path(prepared, 0).read_bytes()[:-100])
    for read in (manifest.read_part, manifest.rows_of):
        with pytest.raises(UserError, match=r"part-00000\.parquet cannot be read .* make them again with"):
            read(part)
    whole(prepared).drop(columns="label").to_parquet(part)
    with pytest.raises(UserError, match="cannot be read as a part of the manifest"):
        manifest.read_part(part)


def test_test_images_are_compared_with_all_of_train_in_passes_of_bounded_size(
    prepared: Path, crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = whole(prepared)
    found = []
    for together in (2000, 130):
        monkeypatch.setattr(twins, "TOGETHER", together)
        found.append(find_twins(prepared, test=1000, crew=crew, scratch=tmp_path))
    assert found[0] == found[1]
    assert (found[0].images, len(found[0].first)) == (10, 10)
    assert found[0].first == [(files["path"][k], files["path"][k + 1]) for k in range(1, FILES, 1000)]
    assert list(tmp_path.iterdir()) == []


def test_digests_that_differ_in_the_last_byte_are_no_twins(prepared: Path, crew: Crew, tmp_path: Path) -> None:
    files = whole(prepared).head(1000)
    train, test = files.index[files["split"] == "train"], files.index[files["split"] == "test"]
    digest = files["pixel_sha256"][train[0]]
    files.loc[test[1], "pixel_sha256"] = digest[:-2] + f"{int(digest[-2:], 16) ^ 1:02x}"
    files.loc[test[2:4], "pixel_sha256"] = digest
    (tmp_path / "manifest").mkdir()
    files.to_parquet(manifest.part_path(tmp_path, 0))
    found = find_twins(tmp_path, test=len(test), crew=crew, scratch=tmp_path)
    paths = files["path"]
    assert found.first == [(paths[1], paths[2]), *((paths[row], paths[train[0]]) for row in test[2:4])]


def test_counters_of_parts_are_those_of_the_whole_table(prepared: Path, crew: Crew, tmp_path: Path) -> None:
    files = whole(prepared)
    kept = files[files["status"] == "kept"]
    counted = counted_by(crew, prepared, tmp_path)
    assert counted.rows == {"files": 10_000, "images": 9800, "train": 8800, "test": 1000}
    outside = kept[(kept["mean"] < 20) | (kept["mean"] > 230)]
    assert counted.breaking["brightness is in range"] == len(outside)
    assert [row.split(" (")[0] for row in counted.named["brightness is in range"]] == list(outside["path"][:20])
    assert (counted.darkest, counted.brightest) == (kept["mean"].min(), kept["mean"].max())
    assert counted.classes["train"] == kept[kept["split"] == "train"]["label"].value_counts().to_dict()
    assert counted.sides == kept["original_width"].astype(int).value_counts().to_dict()
    assert counted.brightness.tolist() == np.histogram(kept["mean"], bins=32, range=(0, 255))[0].tolist()
    assert counted.breaking["every image has its own place"] == 0


def test_a_cluster_counts_and_draws_what_one_process_does(
    prepared: Path, crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, drawn = counted_by(crew, prepared, tmp_path), sampled(prepared, 500, crew=crew)
    monkeypatch.setattr(executors, "START_SECONDS", 0.0)
    there = counted_by(crew, prepared, tmp_path)
    assert crew._client is not None
    assert there.brightness.tolist() == here.brightness.tolist()
    without = {"brightness": None}
    assert dataclasses.replace(there, **without) == dataclasses.replace(here, **without)
    pd.testing.assert_frame_equal(sampled(prepared, 500, crew=crew), drawn)


def test_a_sample_has_its_size_and_rows_of_all_parts_once(prepared: Path, crew: Crew) -> None:
    drawn = sampled(prepared, 500, crew=crew)
    assert len(set(drawn["path"])) == len(drawn) == 500
    by_part = drawn["path"].str.extract(r"(\d+)\.png")[0].astype(int).floordiv(1000).value_counts()
    assert len(by_part) == 10
    assert by_part.between(25, 80).all()
    assert drawn["path"].is_monotonic_increasing
    assert len(sampled(prepared, FILES, crew=crew)) == FILES


def test_an_index_that_two_images_have_is_found_in_and_between_parts() -> None:
    parts = [pd.Series([0.0, 1, 2, 3]), pd.Series([3.0, 4, 5, 9, 9, 9]), pd.Series([12.0, None, None])]
    assert repeated([runs_of(part) for part in parts]).tolist() == [[-1, 0], [3, 4], [9, 10]]
    assert repeated([runs_of(pd.Series(range(start, start + 5))) for start in (5, 0, 10)]).tolist() == []
