"""The cost of a step is measured over real steps, on few images, and never takes the memory that it asks about."""

import dataclasses
import math
import os
import time
from collections.abc import Iterator

import numpy as np
import pytest
import tiny_training as tiny
import torch

from ddpm.compute.settings import Runtime
from ddpm.model_spec import Spec
from ddpm.planning import trial
from ddpm.planning.measuring import Measured, measure
from ddpm.training import session
from ddpm.training.settings import Lora

CPU = torch.device("cpu")
LARGER = dataclasses.replace(
    tiny.SPEC, size=24, network=dataclasses.replace(tiny.SPEC.network, width=16, dropout=0.0, attention=())
)
BATCH = dataclasses.replace(tiny.SETTINGS, batch_size=48)


def runtime(**changes: object) -> Runtime:
    return dataclasses.replace(tiny.PARAMS.runtime, **changes)  # type: ignore[arg-type]


def of(spec: Spec, **changes: object) -> Measured:
    return measure(spec, BATCH, runtime(**changes), CPU, "float32")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Other processes then do not change the processor time of a step."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def measured(one_thread: None) -> Measured:
    return of(LARGER)


def real_seconds() -> float:
    """Processor time of a step in this process, on one thread."""
    random = np.random.default_rng(0)
    training = session.begin(
        LARGER,
        random.integers(0, 256, (48, 1, 24, 24), dtype=np.uint8),
        np.arange(48) % 3,
        data_hash="made up",
        code_hash="made up",
        settings=dataclasses.replace(BATCH, images=48 * 100),
        runtime=runtime(resume="never"),
        device=CPU,
        precision="float32",
        state_folder=tiny.NOWHERE,
    )
    steps = training.steps()
    next(steps)
    began = time.process_time()
    for _ in range(3):
        next(steps)
    return (time.process_time() - began) / 3


def test_the_time_is_that_of_real_steps(measured: Measured) -> None:
    assert 1 / 3 < measured.seconds / real_seconds() < 3


def test_with_adapters_fewer_parameters_are_trained_and_less_is_held_in_memory() -> None:
    train = dataclasses.replace(BATCH, start="champion", lora=Lora(rank=2, alpha=4.0))
    settings = {"runtime": runtime(), "device": "cpu", "precision": "float32", "limit_bytes": 10**12}
    bench = trial._Bench(trial.Job(spec=tiny.SPEC, train=train, images=1, parts=1, others=(), **settings))  # type: ignore[arg-type]
    bench.step_seconds(tiny.SPEC, 1)
    network, adapters = 53_113, 8_484
    assert bench.sizes == (network, adapters, 2 * (network + adapters) + 3 * adapters)


def test_time_and_memory_of_few_images_are_extrapolated_to_those_of_many(measured: Measured) -> None:
    # So little is free that no second number of images is tried.
    few = measure(LARGER, BATCH, runtime(), CPU, "float32", free=measured.bytes)
    assert 1 / 3 < few.seconds / measured.seconds < 3
    assert 1 / 3 < few.bytes / measured.bytes < 3


def test_accumulated_gradients_take_the_time_of_all_images_and_the_memory_of_some(measured: Measured) -> None:
    parts = of(LARGER, device_batch=6)
    assert 1 / 3 < parts.seconds / measured.seconds < 3
    assert parts.bytes < measured.bytes / 2


def test_what_does_not_fit_is_said_to_take_for_ever_and_is_not_tried() -> None:
    huge = dataclasses.replace(tiny.SPEC, size=2048)
    cost = step_cost_with(huge, free=100 << 20)
    assert math.isinf(cost.seconds)
    assert cost.bytes > 100 << 20
    assert cost.images_that_fit == 0


def step_cost_with(spec: Spec, free: int) -> Measured:
    return measure(spec, BATCH, runtime(), CPU, "float32", free=free)


def test_measuring_changes_no_random_number_leaves_no_memory_and_counts_the_parameters(measured: Measured) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    cost = measure(tiny.SPEC, tiny.SETTINGS, runtime(), CPU, "float32")
    assert torch.equal(torch.rand(3), expected)
    assert 0 < cost.seconds < math.inf
    assert 0 < cost.bytes < 1 << 30
    assert not tiny.NOWHERE.exists()
    assert "OMP_NUM_THREADS" in os.environ
    training = tiny.begin(tiny.NOWHERE, resume="never")
    assert cost.parameters == training.parameters
    assert measured.parameters > training.parameters
