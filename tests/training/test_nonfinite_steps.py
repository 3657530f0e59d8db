"""Steps with non-finite values are skipped, counted and logged, and everything can still be saved and restored."""

import csv
import dataclasses
import json
import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import tiny_training as tiny
import torch
from safetensors import safe_open

from ddpm.errors import UserError
from ddpm.files import write_json
from ddpm.generation.grid import grid
from ddpm.images import to_uint8
from ddpm.tracker import NullTracker
from ddpm.training import checkpoint_folder, session
from ddpm.training.curves import write_curves
from ddpm.training.run import Stopped, run_training

STEPS = 12
SETTINGS = dataclasses.replace(
    tiny.SETTINGS, images=16 * STEPS, max_nonfinite_steps=STEPS, warmup_images=16, decay_images=16
)
EVERY = tiny.EVERY | {"log_every_images": 16 * 4}


class Figures(NullTracker):
    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def log(self, metrics: Mapping[str, float], *, images_seen: int) -> None:
        self.seen.append(dict(metrics))


def begin(folder: Path, *, at: set[int], optimizer: str = "adamw", importance: bool = False) -> session.Training:
    """A training of three rows of four steps, with non-finite gradients in these steps (counted from 1)."""
    settings = dataclasses.replace(SETTINGS, optimizer=optimizer)  # type: ignore[arg-type]
    training = tiny.begin(folder, settings=settings, checkpoint_seconds=1e-9)
    if importance:
        training.settings = dataclasses.replace(training.settings, time_sampling="importance")

    def spoil(network: torch.nn.Module, args: object, answer: torch.Tensor) -> torch.Tensor | None:
        return answer * math.nan if training.state.images_seen // 16 in at else None

    training.state.network.register_forward_hook(spoil)
    return training


def run(training: session.Training, tracker: NullTracker) -> list[dict[str, float | None]]:
    picture = tiny.Image.new("L", (8, 8))
    return run_training(training, tracker=tracker, **EVERY, picture=lambda: picture)


def strictly(text: str) -> object:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("at", "rows_without"),
    [
        pytest.param({1}, [], id="the first step"),
        pytest.param({STEPS}, [], id="the last step"),
        pytest.param({9, 10, 11, 12}, [2], id="every step of the last interval"),
        pytest.param(set(range(1, STEPS + 1)), [0, 1, 2], id="every step"),
    ],
)
def test_a_training_with_steps_that_are_not_finite_ends_in_files_that_say_so(
    at: set[int], rows_without: list[int], optimizer: str, tmp_path: Path
) -> None:
    training, told = begin(tmp_path / "state", at=at, optimizer=optimizer), Figures()
    curves = run(training, told)

    report = training.report()
    write_json(tmp_path / "train.json", report)
    assert strictly((tmp_path / "train.json").read_text()) == report
    assert report["nonfinite_steps"] == len(at)
    losses = [row["loss"] for row in curves if row["loss"] is not None]
    assert report["loss"] == (losses[-1] if losses else None)

    write_curves(tmp_path / "curves.csv", curves)
    cells = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert [number for number, row in enumerate(cells) if not row["loss"]] == rows_without
    assert all(math.isfinite(float(cell)) for row in cells for cell in row.values() if cell)
    assert all(math.isfinite(value) for figures in told.seen for value in figures.values())
    assert told.seen[-1]["training_details/nonfinite_steps"] == len(at)

    for path in checkpoint_folder.checkpoints(training.folder):
        with safe_open(path, framework="pt") as file:
            strictly(file.metadata()[checkpoint_folder.FORMAT])


def test_the_means_of_an_interval_are_those_of_its_finite_steps(tmp_path: Path) -> None:
    calm = run(begin(tmp_path / "calm", at=set()), NullTracker())
    told = run(begin(tmp_path / "spoilt", at={12}), NullTracker())
    assert told[:2] == calm[:2]
    assert told[2]["loss"] == pytest.approx(calm[2]["loss"], rel=0.5)
    assert told[2] != calm[2]


def test_a_picture_that_is_not_finite_does_not_end_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = begin(tmp_path / "state", at=set())

    def diverged() -> tiny.Image.Image:
        return grid(to_uint8(torch.full((1, 1, 8, 8), math.nan)), columns=1)

    run_training(training, tracker=NullTracker(), **EVERY, picture=diverged)
    assert training.state.images_seen == 16 * STEPS
    assert f"no picture after {16 * STEPS} images: the generated images have" in capsys.readouterr().out


class StoppedAtTheFirstRow(NullTracker):
    def log(self, metrics: Mapping[str, float], *, images_seen: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_training_that_is_stopped_after_such_a_step_goes_on_to_the_same_curves_and_weights(tmp_path: Path) -> None:
    at = {3, 6, 10}
    undisturbed = begin(tmp_path / "undisturbed", at=at)
    curves = run(undisturbed, NullTracker())
    with pytest.raises(Stopped):
        run(begin(tmp_path / "stopped", at=at), StoppedAtTheFirstRow())
    resumed = begin(tmp_path / "stopped", at=at)
    assert resumed.state.images_seen == 16 * 4
    assert run(resumed, NullTracker()) == curves
    weights, same = undisturbed.state.ema.network.state_dict(), resumed.state.ema.network.state_dict()
    assert all(torch.equal(value, same[name]) for name, value in weights.items())


def test_the_row_of_such_steps_is_counted_through_a_stop(tmp_path: Path) -> None:
    def patient(folder: Path) -> session.Training:
        training = begin(folder, at={2, 3, 4, 5, 6})
        training.settings = dataclasses.replace(training.settings, max_nonfinite_steps=4)
        return training

    for folder in ("undisturbed", "stopped"):
        if folder == "stopped":
            with pytest.raises(Stopped):  # after three of them
                run(patient(tmp_path / folder), StoppedAtTheFirstRow())
        with pytest.raises(UserError, match="not finite 5 steps in a row"):
            run(patient(tmp_path / folder), NullTracker())


def test_the_memory_of_importance_sampling_takes_no_loss_of_a_skipped_step(tmp_path: Path) -> None:
    training = begin(tmp_path, at={2, 3}, importance=True)
    run(training, NullTracker())
    assert int(training.state.times["seen"].sum()) == 16 * (STEPS - 2)
    assert bool(training.state.times["losses"].isfinite().all())
