"""A measured size is kept until something changes on which it depends; small images are never measured."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ddpm.errors import UserError
from ddpm.params import load as load_params
from ddpm.planning.size_choice import UNMEASURED, Settings, size_chooser

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
SETTINGS = Settings(
    method=PARAMS.method,
    vae=PARAMS.vae,
    gan=PARAMS.gan,
    condition=PARAMS.condition,
    text=PARAMS.text,
    schedule=PARAMS.schedule,
    objective=PARAMS.objective,
    network=replace(PARAMS.network, width=8, multipliers=(1,), blocks=1, attention=(), head_channels=8),
    train=replace(PARAMS.train, images=64, batch_size=2, warmup_images=0, decay_images=0, max_hours=None, minutes=None),
    runtime=PARAMS.runtime,
)


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")


def test_small_images_keep_their_size_without_a_measurement(tmp_path: Path, nothing_starts: None) -> None:
    choose = size_chooser(SETTINGS, record=tmp_path / "size.json")
    assert [choose(size, 3) for size in (8, 28, UNMEASURED)] == [8, 28, UNMEASURED]
    assert list(tmp_path.iterdir()) == []


def test_a_measured_size_is_kept_until_a_cause_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "size.json"
    assert size_chooser(SETTINGS, record=record)(40, 3) == 40
    assert "the images keep their own size, 40x40: a training takes" in capsys.readouterr().out

    monkeypatch.setattr(sys, "executable", "/no/such/python")
    again = replace(SETTINGS, train=replace(SETTINGS.train, lr=0.5), runtime=replace(SETTINGS.runtime, workers=2))
    assert size_chooser(again, record=record)(40, 3) == 40
    assert f"(measured before; delete {record} to measure again)" in capsys.readouterr().out
    for changed, own, channels in (
        (SETTINGS, 41, 3),
        (SETTINGS, 40, 1),
        (replace(SETTINGS, network=replace(SETTINGS.network, blocks=2)), 40, 3),
        (replace(SETTINGS, train=replace(SETTINGS.train, max_hours=2.0)), 40, 3),
        (replace(SETTINGS, train=replace(SETTINGS.train, images=65)), 40, 3),
    ):
        with pytest.raises(FileNotFoundError):  # it would measure
            size_chooser(changed, record=record)(own, channels)
    choice = json.loads(record.read_text())
    for damaged in ({"for": {}}, choice | {"size": 0}, choice | {"size": 41}):
        record.write_text(json.dumps(damaged))
        with pytest.raises(FileNotFoundError):
            size_chooser(SETTINGS, record=record)(40, 3)


def test_a_measurement_that_fails_says_what_to_do(tmp_path: Path) -> None:
    runtime = replace(SETTINGS.runtime, device="mps" if sys.platform != "darwin" else "cuda")
    with pytest.raises(UserError, match=r"could not be measured.*set data\.size"):
        size_chooser(replace(SETTINGS, runtime=runtime), record=tmp_path / "size.json")(40, 3)
    assert list(tmp_path.iterdir()) == []
