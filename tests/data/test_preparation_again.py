"""A second preparation decodes only new and changed files, and gives the same result as a first one."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm.data.preparing import prepared_shape, tree
from ddpm.data.preparing.prepare import prepare
from ddpm.data.reading.dataset import Facts, read_facts
from ddpm.data.reading.shard_index import read_index
from ddpm.errors import UserError
from ddpm.params import load as load_params

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)


def draw(path: Path, channels: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = RNG.integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(noise if channels == 3 else noise[:, :, 0]).save(path)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two classes of fifty images."""
    for k in range(100):
        draw(tmp_path / "raw" / "ab"[k % 2] / f"{k:03d}.png")
    return tmp_path / "raw"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Facts]:
    """prepare() of tmp_path / "raw"; keywords change settings."""
    data = dataclasses.replace(load_params(ROOT / "params.yaml").data, source="folder")

    def run_prepare(state: Path | None = tmp_path / "state", prepared: str = "prepared", **changes: Any) -> Facts:
        return prepare(
            dataclasses.replace(data, **changes),
            raw=tmp_path / "raw",
            prepared=tmp_path / prepared,
            workers=1,
            progress=False,
            state=state,
        )

    return run_prepare


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def partitions(state: Path) -> dict[str, int]:
    """Return the number of files per partition, by name."""
    return {path.stem: len(np.load(path)) for path in state.rglob("*.npy")}


def test_only_new_and_changed_files_are_decoded_and_deleted_ones_are_dropped(
    run: Any, raw: Path, tmp_path: Path
) -> None:
    run()
    before = partitions(tmp_path / "state")
    assert sum(before.values()) == 100
    draw(raw / "a" / "new.png")
    draw(raw / "b" / "001.png")
    (raw / "a" / "002.png").unlink()
    facts = run()
    after = partitions(tmp_path / "state")
    assert facts.found == facts.kept == 100
    assert [n for name, n in after.items() if name not in before] == [2]
    assert before.items() <= after.items()
    run(state=None, prepared="fresh")
    assert contents(tmp_path / "prepared") == contents(tmp_path / "fresh")


def test_a_run_in_which_nothing_is_new_decodes_nothing(run: Any, raw: Path, tmp_path: Path) -> None:
    (raw / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    os.link(raw / "a" / "000.png", raw / "a" / "same.png")
    facts = run()
    first, before = contents(tmp_path / "prepared"), partitions(tmp_path / "state")
    assert sum(facts.rejected.values()) == 2
    assert run() == facts
    assert contents(tmp_path / "prepared") == first
    assert partitions(tmp_path / "state") == before


def test_a_file_that_was_unreadable_is_read_by_the_next_run(
    run: Any, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # as if it were renamed after the folder was listed
        listed = [*tree.files(raw), "a/late.png"]
        patch.setattr(tree, "files", lambda folder: listed)
        assert run().rejected == {"unreadable": 1}
    draw(raw / "a" / "late.png")
    facts = run()
    assert (facts.kept, facts.rejected) == (101, {})


def test_pixels_of_another_target_or_limit_are_not_kept(run: Any, raw: Path, tmp_path: Path) -> None:
    for changes in ({}, {"size": 6}, {"size": 6, "max_pixels": 1000}):
        facts = run(**changes)
        folders = {path.parent for path in (tmp_path / "state").rglob("*.npy")}
        assert [folder.name for folder in folders] == [f"{facts.size}x{facts.size}x3-crop"]
        run(state=None, prepared="fresh", **changes)
        assert contents(tmp_path / "prepared") == contents(tmp_path / "fresh")


def test_a_torn_partition_is_decoded_again(run: Any, raw: Path, tmp_path: Path) -> None:
    run()
    first = contents(tmp_path / "prepared")
    torn = next((tmp_path / "state").rglob("*.pixels"))
    torn.write_bytes(torn.read_bytes()[:-1])
    run()
    assert contents(tmp_path / "prepared") == first


def test_many_small_partitions_are_merged(run: Any, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddpm.data.preparing.upkeep._MANY", 2)
    for k in range(6):
        draw(raw / "a" / f"new{k}.png")
        run()
        assert len(partitions(tmp_path / "state")) <= 2 * 2 + 2
    assert sum(partitions(tmp_path / "state").values()) == 106
    first, before = contents(tmp_path / "prepared"), partitions(tmp_path / "state")
    run()
    assert (contents(tmp_path / "prepared"), partitions(tmp_path / "state")) == (first, before)


def test_kept_pixels_never_take_more_than_twice_the_set(run: Any, raw: Path, tmp_path: Path) -> None:
    run()
    for path in sorted(raw.rglob("*.png"))[::2]:
        path.unlink()
    for path in sorted(raw.rglob("*.png"))[::3]:
        path.unlink()
    facts = run()
    stored = sum(path.stat().st_size for path in (tmp_path / "state").rglob("*.pixels"))
    assert stored <= 2 * facts.kept * 12 * 12 * 3


def test_every_header_counts_even_if_a_sample_agrees(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_shape, "SAMPLE", 4)
    for k in range(20):
        draw(tmp_path / "raw" / f"{k:02d}.png", channels=3 if k == 7 else 1)
    assert run().channels == 3
    (tmp_path / "raw" / "07.png").unlink()
    assert run().channels == 1
    draw(tmp_path / "raw" / "07.png")
    assert run().channels == 3
    assert read_facts(tmp_path / "prepared").kept == 20


def test_shards_are_within_their_size_limit_and_change_no_content(run: Any, raw: Path, tmp_path: Path) -> None:
    whole = run()
    few = run(shard_bytes=10_000)
    assert few == whole
    sizes = [path.stat().st_size for path in (tmp_path / "prepared").rglob("shard-*.npy")]
    assert len(sizes) == 4 + 1  # of 80 and 20 images, 22 in each
    assert 9000 < max(sizes) <= 10_000


def test_a_store_gets_the_shards_by_their_hashes_and_only_changed_ones_again(
    run: Any, raw: Path, tmp_path: Path
) -> None:
    whole = run()
    store = tmp_path / "store"
    settings: dict[str, Any] = {"store": f"file://{store}", "shard_bytes": 10_000}
    assert run(**settings) == whole
    assert not list((tmp_path / "prepared").rglob("shard-*.npy"))
    index = read_index(tmp_path / "prepared" / "train")
    assert index.images == whole.train
    for shard in index.shards:
        content = (store / f"{shard.sha256}.npy").read_bytes()
        assert hashlib.sha256(content).hexdigest() == shard.sha256
    before = {path: path.stat().st_mtime_ns for path in store.iterdir()}
    run(**settings)
    assert {path: path.stat().st_mtime_ns for path in store.iterdir()} == before


def test_a_store_that_rejects_a_shard_is_reported_in_one_sentence(run: Any, raw: Path, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(UserError, match=r"could not be written to file://.*correct data\.store"):
        run(store=f"file://{tmp_path / 'store'}")
    assert not (tmp_path / "prepared").exists()
