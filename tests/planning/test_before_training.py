"""What is planned before the first step is planned once: a training that has begun goes on as it was planned."""

import dataclasses
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from ddpm.compute.memory import free_bytes
from ddpm.compute.settings import Runtime
from ddpm.errors import UserError
from ddpm.model_spec import Spec
from ddpm.params import Params
from ddpm.planning import before_training, measuring
from ddpm.planning.before_training import agreed, make_plan
from ddpm.planning.measuring import Measured
from ddpm.planning.plan import Pictures
from ddpm.training import checkpoint_folder, session
from ddpm.training.settings import Train

CPU = torch.device("cpu")
MACHINE: dict[str, Any] = {"device": CPU, "precision": "float32"}
PICTURES = Pictures(train=37, test=10)


@pytest.fixture(autouse=True, scope="module")
def measured_once() -> Iterator[None]:
    """A step of equal cost is measured once for all tests: each measurement is a process of some seconds."""
    known: dict[str, Measured] = {}

    def measured(spec: Spec, train: Train, runtime: Runtime, *where: Any, **more: Any) -> Measured:
        cause = repr((spec, train.batch_size, runtime.device_batch, where, more))
        if cause not in known:
            known[cause] = measuring.measure(spec, train, runtime, *where, **more)
        return known[cause]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(before_training, "measure", measured)
        patch.setattr(before_training, "free_bytes", cache(free_bytes))
        yield


def params(train: Train, **runtime: object) -> Params:
    changed = dataclasses.replace(tiny.PARAMS.runtime, **runtime)  # type: ignore[arg-type]
    return dataclasses.replace(tiny.PARAMS, train=train, runtime=changed)


def begin(folder: Path, settings: Train, planned: Train | None = None) -> session.Training:
    return session.begin(
        tiny.SPEC,
        tiny.IMAGES,
        tiny.LABELS,
        data_hash="made up",
        code_hash="made up",
        settings=settings,
        planned=planned,
        runtime=dataclasses.replace(tiny.PARAMS.runtime, progress=False, checkpoint_seconds=1000.0),
        state_folder=folder,
        **MACHINE,
    )


def fingerprint(settings: Train) -> str:
    return session.fingerprint_of(tiny.SPEC, settings, data_hash="made up", code_hash="made up")


def test_a_length_for_minutes_is_planned_once_and_the_training_resumes_and_repeats_bit_by_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = dataclasses.replace(tiny.SETTINGS, minutes=0.02)
    folder = tmp_path / fingerprint(settings)
    planned = agreed(params(settings), tiny.SPEC, PICTURES, folder=folder, **MACHINE)
    assert planned is not None
    said = capsys.readouterr().out
    assert "planned for train.minutes (0.02)" in said
    assert f"  images: {planned.lengths['images']}\n" in said
    # A test does not train as long as the machine could: this length takes the place of the recorded one.
    short = dataclasses.replace(
        planned, lengths={"images": 96, "warmup_images": 9, "decay_images": 24, "ema_halflife_images": 8}
    )
    from ddpm.planning import length

    length.record(folder, short)
    assert agreed(params(settings), tiny.SPEC, PICTURES, folder=folder, **MACHINE) == short, "as it was recorded"

    first = begin(tmp_path, settings, short.settings(settings))
    assert first.folder == folder
    steps = first.steps()
    for _ in range(3):
        next(steps)
    first.save(wait=True)
    capsys.readouterr()
    assert agreed(params(settings), tiny.SPEC, PICTURES, folder=folder, **MACHINE) == short
    assert "training after 48 images" in capsys.readouterr().out
    resumed = begin(tmp_path, settings, short.settings(settings))
    assert resumed.state.images_seen == 48
    assert [step.images_seen for step in resumed.steps()][-1] == 96

    repeated = begin(tmp_path, short.settings(settings))  # elsewhere, with the printed lines in params.yaml
    assert repeated.folder != folder
    list(repeated.steps())
    for name, value in repeated.state.ema.network.state_dict().items():
        assert torch.equal(value, resumed.state.ema.network.state_dict()[name]), name

    resumed.forget()
    assert length.recorded(folder) == short, "so that `dvc repro -f` gives the same model"


def test_a_checkpoint_of_another_planned_length_is_not_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = dataclasses.replace(tiny.SETTINGS, minutes=0.02)
    short, longer = (
        dataclasses.replace(settings, minutes=None, images=n, warmup_images=9, decay_images=24) for n in (96, 192)
    )
    first = begin(tmp_path, settings, short)
    next(first.steps())
    first.save(wait=True)
    assert begin(tmp_path, settings, short).state.images_seen == 16
    planned_again = begin(tmp_path, settings, longer)
    assert planned_again.folder == first.folder
    assert planned_again.state.images_seen == 0, "its first steps would be those of another learning rate and average"
    assert "the training starts from the beginning" in capsys.readouterr().out


def test_a_training_beyond_max_hours_is_not_begun_and_one_that_has_begun_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = dataclasses.replace(tiny.SETTINGS, images=10**9, max_hours=0.1)
    folder = tmp_path / fingerprint(settings)
    with pytest.raises(UserError, match=r"would take .* \(62,500,000 steps .*train\.max_hours is 0\.1; raise it"):
        agreed(params(settings), tiny.SPEC, PICTURES, folder=folder, **MACHINE)
    assert not folder.exists()

    training = begin(tmp_path, settings)
    next(training.steps())
    training.save(wait=True)
    assert checkpoint_folder.checkpoints(folder)
    assert agreed(params(settings), tiny.SPEC, PICTURES, folder=folder, **MACHINE) is None
    assert "plan: training after 16 images: " in capsys.readouterr().out
    with pytest.raises(UserError, match=r"train\.max_hours"):
        agreed(params(settings, resume="never"), tiny.SPEC, PICTURES, folder=folder, **MACHINE)


@pytest.mark.slow
def test_a_training_that_does_not_fit_is_refused_and_fits_with_the_device_batch_that_the_sentence_names() -> None:
    larger = dataclasses.replace(tiny.SPEC, size=32, network=dataclasses.replace(tiny.SPEC.network, attention=()))
    settings = dataclasses.replace(tiny.SETTINGS, batch_size=64)
    about: dict[str, Any] = {"folder": None, **MACHINE}
    whole, _ = make_plan(params(settings), larger, PICTURES, **about)
    free = whole.cost.bytes // 2
    plan, _ = make_plan(params(settings), larger, PICTURES, free=free, **about)
    refused = plan.refusal()
    assert refused is not None
    assert "runtime.device_batch" in refused
    fitting = plan.cost.images_that_fit
    assert 1 <= fitting < 64
    divided, _ = make_plan(params(settings, device_batch=max(1, fitting // 2)), larger, PICTURES, free=free, **about)
    assert divided.refusal() is None
