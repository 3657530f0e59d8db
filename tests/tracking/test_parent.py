"""The model that a training starts from: the champion of a real registry, kept while its training lasts, or a file."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shelf import Shelf, moved_by_hand

from ddpm import model_file
from ddpm.compute.processes import joined, rank
from ddpm.errors import UserError
from ddpm.exchange import diffusers_folder
from ddpm.files import write_json
from ddpm.params import load
from ddpm.tracking import mlflow_registry
from ddpm.tracking.parent import find_parent, note_training
from ddpm.training import finished
from ddpm.training.start import Parent

STATE = Path(".state/train")
STARTS = Path("data/starts")


def found(start: str | None = "champion", *, key: str = "k", resume: str = "auto", classes: int = 4) -> Parent:
    parent = find_parent(start, starts=STARTS, classes=classes, name="ddpm", state=STATE, key=key, resume=resume)
    assert parent is not None
    return parent


def begun(training: str, *, key: str = "k") -> Path:
    """The folder of a training that began with the champion."""
    folder = STATE / training
    folder.mkdir(parents=True)
    note_training(folder, key=key)
    return folder


@pytest.fixture
def shelf(project: Path, tiny_model: Callable[..., str]) -> Shelf:
    return Shelf(project, tiny_model)


def test_a_killed_training_keeps_its_champion_and_the_next_one_gets_the_new(shelf: Shelf) -> None:
    shelf.judged(1, 10.0)
    first = found()
    assert first.identity["name"] == "ddpm version 1"
    assert first.identity["version"] == "1"
    assert first.identity["data_hash"] == "d" * 64
    assert first.model is not None
    assert first.model.sha256 == first.identity["sha256"]
    shelf.judged(2, 5.0)
    assert shelf.champion() == "2"
    assert found().identity == first.identity, "killed before its first checkpoint"
    training = begun("aaaa")
    moved_by_hand(shelf, None)
    artifacts = (shelf.project / "mlartifacts").rename("elsewhere")
    assert found().identity == first.identity, "killed later"

    artifacts.rename("mlartifacts")
    moved_by_hand(shelf, "2")
    assert found(resume="never").identity["name"] == "ddpm version 2"
    shutil.rmtree(training)  # as soon as DVC has recorded its model
    moved_by_hand(shelf, "1")
    begun("bbbb")
    assert found().identity["name"] == "ddpm version 2"
    (STATE / "bbbb").rmdir()
    assert found().identity == first.identity


def test_trainings_of_other_parameters_have_their_own_champion_and_ended_ones_leave_no_copy(shelf: Shelf) -> None:
    shelf.judged(1, 10.0)
    found(key="monday")
    begun("aaaa", key="monday").rmdir()
    shelf.judged(2, 5.0)
    assert found(key="tuesday").identity["version"] == "2"
    assert [path.name for path in STATE.iterdir()] == ["champion-tuesday"]


def test_the_length_that_stays_of_a_training_for_minutes_does_not_keep_its_champion(shelf: Shelf) -> None:
    shelf.judged(1, 10.0)
    found()
    training = begun("aaaa")
    write_json(training / finished.PLANNED, {})
    write_json(training / finished.COST, {})
    shelf.judged(2, 5.0)
    assert found().identity["version"] == "1", "killed before its first checkpoint"
    finished.clear(training)  # as soon as DVC has recorded its model
    assert (training / finished.PLANNED).exists()
    assert found().identity["version"] == "2"


def test_without_a_champion_there_is_no_model_and_that_is_kept_too(
    project: Path, tiny_model: Callable[..., str]
) -> None:
    (project / "mlflow.db").unlink()  # not even a store
    parent = found()
    assert parent.model is None
    assert parent.identity == {"name": "ddpm has no champion at sqlite:///mlflow.db", "sha256": None}
    begun("aaaa")
    Shelf(project, tiny_model).judged(1, 10.0)
    assert found() == parent


def test_a_registry_that_does_not_answer_and_a_lost_file_are_one_sentence(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = shelf.judged(1, 10.0).version
    for file in (shelf.project / "mlartifacts").rglob("*.safetensors"):
        file.unlink()
    with pytest.raises(UserError, match=f"version {version.number} of ddpm has 0 model files"):
        found()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"MLflow at http://127\.0\.0\.1:9 refused or did not answer"):
        found()


def test_a_changed_copy_of_the_champion_is_noticed(shelf: Shelf, tiny_model: Callable[..., str]) -> None:
    shelf.judged(1, 10.0)
    found()
    tiny_model(STATE / "champion-k" / "model.safetensors", seed=9)
    with pytest.raises(UserError, match=r"has changed since the training began with it; delete .*champion-k"):
        found()


def found_in_a_state_folder_of_its_own() -> None:
    """As one of several processes, each on another machine."""
    options: dict[str, Any] = {"starts": STARTS, "classes": 4, "name": "ddpm", "key": "k", "resume": "auto"}
    says = (
        r"disagree on the checksum of .*champion-k/parent\.json \(0: no such file\): 0 and .* a disk that all machines"
    )
    with joined(load("params.yaml").runtime), pytest.raises(UserError, match=says):
        find_parent("champion", state=STATE / str(rank()), **options)


def test_two_machines_without_a_shared_folder_are_one_sentence(project: Path) -> None:
    shutil.copy(Path(__file__).parents[2] / "params.yaml", project)
    forked.run_together(2, found_in_a_state_folder_of_its_own, folder=project)


def test_a_file_is_identified_by_its_content_and_says_its_data(project: Path, tiny_model: Callable[..., str]) -> None:
    sha256 = tiny_model(STARTS / "other.safetensors")
    parent = found("data/starts/other.safetensors")
    assert parent.identity == {"name": "data/starts/other.safetensors", "sha256": sha256, "data_hash": "d" * 64}
    assert not STATE.exists()
    assert find_parent(None, starts=STARTS, classes=4, name="ddpm", state=STATE, key="k", resume="auto") is None


def with_header(file: Path, **lineage: Any) -> None:
    """The same model file with this lineage in its header."""
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()[model_file.FORMAT])
    header["lineage"] = lineage
    save_file(load_file(file), file, {model_file.FORMAT: json.dumps(header)})


def test_a_hostile_file_is_one_sentence_and_its_origin_is_short_text(
    project: Path, tiny_model: Callable[..., str]
) -> None:
    file = STARTS / "hostile.safetensors"
    tiny_model(file)
    with_header(file, data="x" * 10**6, data_hash={"a": ["b"]})
    identity = found(str(file)).identity
    assert len(identity["data"]) == 200
    assert "data_hash" not in identity

    tiny_model(Path("elsewhere.safetensors"))
    (STARTS / "link.safetensors").symlink_to(Path("elsewhere.safetensors").absolute())
    (STARTS / "text.safetensors").write_text("import os")
    (STARTS / "huge.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    os.mkfifo(STARTS / "pipe.safetensors")
    (STARTS / "folder").mkdir()
    for name, says in (
        ("../../elsewhere.safetensors", "expected champion, or a model in data/starts, where DVC notices changes"),
        ("link.safetensors", "expected champion, or a model in data/starts"),
        ("text.safetensors", "train.start: .* is not a complete safetensors file"),
        ("huge.safetensors", "train.start: .* is not a complete safetensors file"),
        ("pipe.safetensors", "train.start: .* is not a model file"),
        ("missing.safetensors", "train.start: .* is not a model file"),
        ("folder", "train.start: .* has no config.json"),
    ):
        with pytest.raises(UserError, match=says):
            found(str(STARTS / name))


EXPORTABLE: dict[str, Any] = {"schedule": {"T": 1000}, "network": {"groups": 2, "multipliers": [1, 1]}}


@pytest.mark.parametrize("classes", [4, 5])
def test_a_folder_of_diffusers_gives_the_weights_that_it_has(
    classes: int, project: Path, tiny_model: Callable[..., str]
) -> None:
    tiny_model(Path("model.safetensors"), **EXPORTABLE)
    original = model_file.load("model.safetensors")
    STARTS.mkdir(parents=True)
    diffusers_folder.export_model(original, STARTS / "theirs")
    parent = found("data/starts/theirs", classes=classes)
    assert parent.identity["name"] == "data/starts/theirs"
    assert parent.identity == found("data/starts/theirs", classes=classes).identity
    assert parent.model is not None
    names = [str(k) for k in range(classes)]
    assert list(parent.model.spec.classes) == names, "the last one is `no label` where the training has one class less"
    theirs = parent.model.network.state_dict()
    for name, tensor in original.network.state_dict().items():
        assert theirs[name][: len(tensor)].allclose(tensor, atol=1e-5), name


def test_a_version_says_what_it_started_from(shelf: Shelf) -> None:
    shelf.judged(1, 10.0)
    identity = found().identity
    record = identity | {"tensors": 130, "taken_over": 123, "new": ["a"], "not_taken": []}
    tags = mlflow_registry.start_tags(record)
    assert tags["start.version"] == "1"
    assert tags["start.sha256"] == identity["sha256"]
    assert tags["start.taken_over"] == "123 of 130 tensors"
    assert mlflow_registry.start_tags({"name": "ddpm has no champion", "sha256": None}) == {
        "start.name": "ddpm has no champion"
    }
