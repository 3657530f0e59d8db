"""`ddpm drift` on real digits: equal pictures raise no alarm, changed ones do, and hostile files are only counted."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits

from ddpm import cli, overlay
from ddpm.data.preparing.prepare import prepare
from ddpm.data.reading.dataset import read_facts, read_split
from ddpm.drifting import incoming, two_samples
from ddpm.drifting.drift import measure
from ddpm.drifting.taking import take
from ddpm.errors import UserError
from ddpm.measuring.features import extractor_file
from ddpm.measuring.features.extractor_file import load_extractor
from ddpm.measuring.features.extractor_training import train_extractor
from ddpm.params import load as load_params

CPU = torch.device("cpu")
PREPARED = Path("data/prepared")
ROOT = Path(__file__).parents[2]
DATA = 1000
"""Digits that are the data; the others come in."""


class Digits(NamedTuple):
    images: np.ndarray
    """uint8 [N,8,8]"""
    labels: np.ndarray


def write(folder: Path, digits: Digits, *, flat: bool = False) -> None:
    """Write PNG files, in a folder for each class."""
    for k, (image, label) in enumerate(zip(digits.images, digits.labels, strict=True)):
        path = folder / ("" if flat else str(label)) / f"{k:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


@pytest.fixture(scope="session")
def digits() -> tuple[Digits, Digits]:
    """The digits of the data, and those that come in."""
    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    return tuple(Digits(images[rows], found.target[rows]) for rows in (order[:DATA], order[DATA:]))  # type: ignore


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, digits: tuple[Digits, Digits]) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write(folder / "data/raw", digits[0])
    shutil.copy(ROOT / "params.yaml", folder)
    values = {"data": {"source": "folder"}, "retrain": {"incoming": "incoming", "false_alarms": 0.05}}
    overlay.write_values(folder / "params.yaml", values, "a test")
    params = load_params(folder / "params.yaml")
    data = dataclasses.replace(params.data, test_fraction=0.3)
    prepared = folder / "data/prepared"
    prepare(data, raw=folder / "data/raw", prepared=prepared, workers=1, progress=False)
    features = dataclasses.replace(params.features, images=6_000)
    train, test = (read_split(prepared, name) for name in ("train", "test"))
    extractor = train_extractor(
        train, test, kind="classifier", classes=10, settings=features, device=torch.device("cpu"), progress=False
    )
    extractor_file.save(extractor, folder / "models/extractor.safetensors")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, which is the working folder."""
    folder = tmp_path / "project"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


def some(digits: Digits, n: int, *, start: int = 0) -> Digits:
    return Digits(digits.images[start : start + n], digits.labels[start : start + n])


def drifted(capsys: pytest.CaptureFixture[str]) -> dict:
    assert cli.main(["drift", "incoming", "--record", "drift.json"]) == 0, capsys.readouterr().err
    return json.loads(Path("drift.json").read_text())


def test_equal_pictures_have_not_drifted_and_the_command_shows_every_distance(
    project: Path, digits: tuple[Digits, Digits], capsys: pytest.CaptureFixture[str]
) -> None:
    write(project / "incoming", some(digits[1], 300))
    found = drifted(capsys)
    said = capsys.readouterr().out
    assert found["drifted"] is False
    assert (found["incoming"], found["reference"], found["new"], found["rejected"]) == (300, 301, 300, {})
    assert list(found["compared"]) == ["frechet", "kernel", "shares", "brightness", "contrast", "side", "aspect"]
    for label in ("Fréchet distance", "class shares", "no drift: nothing differs beyond chance"):
        assert label in said
    with Image.open("reports/drift.png") as picture:
        assert picture.size == (1120, 640)


def blurred(digits: Digits) -> Digits:
    return Digits(
        np.stack([np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.6))) for image in digits.images]),
        digits.labels,
    )


def without_a_class(digits: Digits) -> Digits:
    kept = digits.labels != 3
    return Digits(digits.images[kept], digits.labels[kept])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (blurred, "frechet"),
        (without_a_class, "shares"),
        pytest.param(lambda digits: Digits(255 - digits.images, digits.labels), "kernel", marks=pytest.mark.slow),
        pytest.param(
            lambda digits: Digits((digits.images * 0.8 + 20).astype(np.uint8), digits.labels),
            "brightness",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda digits: Digits(digits.images.repeat(3, axis=1).repeat(3, axis=2), digits.labels),
            "side",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["blurred", "a missing class", "inverted", "brighter", "larger"],
)
def test_changed_pictures_have_drifted(
    project: Path, digits: tuple[Digits, Digits], change, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(project / "incoming", change(some(digits[1], 300)))
    found = drifted(capsys)
    assert found["drifted"]
    assert found["compared"][named]["drifted"]
    assert found["compared"][named]["value"] > found["compared"][named]["threshold"]


@pytest.mark.slow  # 60 comparisons of real features
def test_draws_of_the_same_data_raise_as_many_alarms_as_stated(
    project: Path, digits: tuple[Digits, Digits], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The held-out digits, which are other ones each time, and new ones, through the extractor of the data."""
    write(project / "incoming", digits[1])
    params, kept = load_params(), {}
    real = two_samples.compare

    def keep(own, reference, *, false_alarms):
        kept.update(own=own, reference=reference)
        return real(own, reference, false_alarms=false_alarms)

    monkeypatch.setattr("ddpm.drifting.drift.compare", keep)
    classes = read_facts(PREPARED).classes
    files = incoming.new_files(Path("incoming"), prepared=PREPARED, classes=classes)
    extractor = load_extractor(Path("models/extractor.safetensors"))
    settings = {"folder": Path("incoming"), "prepared": PREPARED, "data": params.data, "settings": params.retrain}
    assert not measure(files, extractor=extractor, device=CPU, **settings).answer.drifted
    own, reference = kept["own"], kept["reference"]
    random, rate, draws = np.random.default_rng(0), 0.1, 60
    alarms = 0
    for _ in range(draws):
        parts = [rows_of(one, random.choice(len(one), n, replace=False)) for one, n in ((own, 120), (reference, 200))]
        alarms += real(*parts, false_alarms=rate).drifted
    assert alarms <= rate * draws + 3.1 * np.sqrt(draws * rate * (1 - rate))


def rows_of(sample: two_samples.Sample, rows: np.ndarray) -> two_samples.Sample:
    classes = None if sample.classes is None else tuple(sample.classes[row] for row in rows)
    arrays = {name: getattr(sample, name)[rows] for name in ("features", "brightness", "contrast", "side", "aspect")}
    return two_samples.Sample(**arrays, classes=classes)


def test_hostile_files_are_counted_by_reason_and_nothing_of_the_folder_changes(
    project: Path, digits: tuple[Digits, Digits], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project / "incoming"
    write(folder, some(digits[1], 120))
    (folder / "0/cut.png").write_bytes((folder / "0").glob("*.png").__next__().read_bytes()[:60])
    (folder / "1/text.png").write_text("no picture")
    (folder / "2/empty.jpg").touch()
    Image.new("L", (20_000, 10_000)).save(folder / "3/bomb.png")
    (folder / "notes.txt").write_text("not counted")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    found = drifted(capsys)
    assert (found["new"], found["incoming"]) == (124, 120)
    assert sum(found["rejected"].values()) == 4
    assert found["rejected"]["more than max_pixels"] == 1
    assert "more than max_pixels" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    os.mkfifo(folder / "pipe.png")
    assert cli.main(["drift", "incoming"]) == 1
    assert "the folder is incoming, in which pipe.png (a pipe) cannot be data" in capsys.readouterr().err


def test_what_is_known_or_too_little_is_not_compared(
    project: Path, digits: tuple[Digits, Digits], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["drift", "incoming"]) == 1
    assert "the folder is incoming, expected a folder of pictures" in capsys.readouterr().err
    write(project / "incoming", digits[0])  # the data themselves
    assert cli.main(["drift", "incoming"]) == 1
    assert (
        "incoming has 0 new pictures that can be used, expected retrain.least_images (100)" in capsys.readouterr().err
    )


def test_pictures_without_class_folders_are_compared_without_class_shares(
    project: Path, digits: tuple[Digits, Digits], capsys: pytest.CaptureFixture[str]
) -> None:
    write(project / "incoming", some(digits[1], 150), flat=True)
    assert "shares" not in drifted(capsys)["compared"]
    assert "class shares were not compared" in capsys.readouterr().out


def test_taken_pictures_are_of_the_next_data_and_are_never_new_again(
    project: Path, digits: tuple[Digits, Digits]
) -> None:
    params, classes = load_params(), read_facts(PREPARED).classes
    folder = project / "incoming"
    write(folder, some(digits[1], 30))
    write(folder / "eleven", some(digits[1], 2, start=40), flat=True)

    def files() -> list[incoming.NewFile]:
        return incoming.new_files(folder, prepared=PREPARED, classes=classes)

    arguments = {"folder": folder, "data": params.data, "prepared": PREPARED, "classes": classes}
    assert take(files(), **arguments) == 32
    assert take(files(), **arguments) == 0, "the same pictures twice"
    assert len(list(Path("data/raw/eleven").glob("incoming-*.png"))) == 2
    facts = prepare(params.data, raw=Path("data/raw"), prepared=PREPARED, workers=1, progress=False)
    assert facts.found == 1032
    assert facts.classes[-1] == "eleven"
    assert files() == []


def test_pictures_without_a_class_are_not_taken_into_data_with_classes(
    project: Path, digits: tuple[Digits, Digits]
) -> None:
    write(project / "incoming", some(digits[1], 3), flat=True)
    classes = read_facts(PREPARED).classes
    files = incoming.new_files(Path("incoming"), prepared=PREPARED, classes=classes)
    with pytest.raises(UserError, match="3 pictures in no folder of a class, such as 00"):
        take(files, folder=Path("incoming"), data=load_params().data, prepared=PREPARED, classes=classes)
