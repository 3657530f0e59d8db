"""The last checkpoint of a finished training stays until DVC has recorded its model."""

import hashlib
import os
from pathlib import Path

import pytest

from ddpm.pipeline import dvc_lock
from ddpm.training import finished

MODEL = Path("models/model.safetensors")
CONTENT = b"a model"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    MODEL.parent.mkdir()
    MODEL.write_bytes(CONTENT)
    return tmp_path


def ended(name: str) -> Path:
    """A training's folder with two checkpoints, of which the last is kept."""
    folder = Path(".state/train") / name
    folder.mkdir(parents=True, exist_ok=True)
    for seen in ("0", "16"):
        (folder / f"checkpoint-{seen}-0123.safetensors").write_bytes(b"weights")
    (folder / finished.TRACKED).mkdir(exist_ok=True)
    finished.keep(folder, model=MODEL, run_id="r")
    return folder


def record(content: bytes = CONTENT) -> None:
    """Write dvc.lock as DVC does after a stage; the clock of the file system may be coarse."""
    before = dvc_lock.written_at() or 0
    md5 = hashlib.md5(content).hexdigest()
    dvc_lock.LOCK.write_text(f"schema: '2.0'\nstages:\n  train:\n    outs:\n    - path: {MODEL}\n      md5: {md5}\n")
    os.utime(dvc_lock.LOCK, ns=(before + 10**9, before + 10**9))


def clear_recorded(*, known: bool = True) -> None:
    finished.clear_recorded(Path(".state/train"), is_known=lambda run_id: known and run_id == "r")


def test_the_last_checkpoint_stays_until_dvc_has_recorded_the_model(project: Path) -> None:
    folder = ended("a")
    assert [path.name for path in folder.glob("checkpoint*")] == ["checkpoint-16-0123.safetensors"]
    clear_recorded()
    assert folder.exists()
    record(b"another model")
    clear_recorded()
    assert folder.exists()
    record()
    clear_recorded()
    assert not folder.exists()


def test_a_lock_that_named_the_same_model_before_the_training_ended_records_nothing(project: Path) -> None:
    record()
    folder = ended("a")
    clear_recorded()
    assert folder.exists()
    record()
    clear_recorded()
    assert not folder.exists()


def test_a_training_that_the_store_does_not_know_stays(project: Path) -> None:
    folder = ended("a")
    record()
    clear_recorded(known=False)
    assert folder.exists()


@pytest.mark.parametrize("content", ["", "stages:\n  train:\n    outs:\n    - pa", "[1]", "stages: 3"])
def test_a_lock_that_dvc_did_not_finish_writing_records_nothing(project: Path, content: str) -> None:
    folder = ended("a")
    dvc_lock.LOCK.write_text(content)
    clear_recorded()
    assert folder.exists()


def test_one_state_is_kept_of_all_trainings_that_ended_and_those_that_did_not_end_stay(project: Path) -> None:
    first = ended("first")
    interrupted = Path(".state/train/interrupted")
    interrupted.mkdir()
    (interrupted / "checkpoint-0-0123.safetensors").write_bytes(b"weights")
    second = ended("second")
    assert not first.exists()
    assert second.exists()
    assert interrupted.exists()


def test_a_note_that_cannot_be_read_leaves_the_checkpoint(project: Path) -> None:
    folder = ended("a")
    (folder / finished.NOTE).write_text("{")
    record()
    clear_recorded()
    assert {path.name for path in folder.iterdir()} == {"checkpoint-16-0123.safetensors", finished.TRACKED}
