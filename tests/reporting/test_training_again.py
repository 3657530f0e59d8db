"""The spread of trainings is written for DVC and people, and says which versions have another recipe."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ddpm.errors import UserError
from ddpm.measuring.metric_catalogue import find
from ddpm.reporting import training_again

PROTOCOL = {"n": 100, "drawing": {"sampler": "ddim", "ddim": {"eta": 0.0}}}


def origin(seed: int, **changes: Any) -> dict[str, Any]:
    train = {"images": 1000, "seed": seed} | changes
    return {"params": {"train": train, "network": {"multipliers": (1, 2)}}, "data_hash": "d", "code_hash": "c"}


def record(fid: float) -> dict[str, Any]:
    return {"fid": fid, "kid": None, "interval": {"fid": {"low": fid - 0.2, "high": fid + 0.2}}, "protocol": PROTOCOL}


@pytest.fixture
def spread(tmp_path: Path) -> training_again.Spread:
    content = training_again.content({1: record(1.0), 2: record(2.0), 3: record(3.0)}, origin(1))
    (tmp_path / "spread.json").write_text(json.dumps(content))
    found = training_again.read(tmp_path / "spread.json")
    assert found is not None
    return found


def version(number: str, **values: Any) -> Any:
    return SimpleNamespace(number=number, origin=lambda: origin(9, **values), records=lambda: [record(1.0)])


def test_mean_standard_deviation_and_the_error_of_drawing_are_those_of_the_records(
    spread: training_again.Spread,
) -> None:
    assert spread.trainings == 3
    assert spread.metrics["fid"] == pytest.approx({"mean": 2.0, "std": 1.0, "drawing": 0.2 / 1.959964})
    assert "kid" not in spread.metrics
    fid, kid = find("fid"), find("kid")
    assert fid is not None
    assert kid is not None
    assert (spread.of(fid), spread.of(kid)) == ("± 1", "")


def test_a_version_of_another_seed_has_the_same_recipe_and_one_of_other_settings_is_named(
    spread: training_again.Spread,
) -> None:
    assert "another recipe" not in spread.sentence([version("1")])
    said = spread.sentence([version("1"), version("2", images=2000)])
    assert "Version 2 has another recipe (train.images)" in said
    assert "Version 1" not in said


def test_without_a_file_there_is_no_spread_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    assert training_again.read(tmp_path / "none.json") is None
    (tmp_path / "half.json").write_text('{"trainings": 3')
    with pytest.raises(UserError, match="measure it again with `ddpm spread`"):
        training_again.read(tmp_path / "half.json")
