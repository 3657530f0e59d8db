"""Between two log intervals a step reads nothing from the device, so that on a GPU the host runs ahead.

There need not be a GPU: reads and synchronising copies are calls of torch, and are found on a CPU as well. What a GPU
says itself is in the tests marked `gpu`.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import tiny_training as tiny
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm.compute import hardware
from ddpm.diffusion.processes import make_process
from ddpm.training import augmentation, batches, exchange, loop
from ddpm.training.curves import Meter
from ddpm.training.settings import Augment
from ddpm.training.times import HISTORY, Importance

CPU = torch.device("cpu")
READS = {
    *(Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__bool__, Tensor.__float__, Tensor.__int__),
    *(Tensor.__index__, Tensor.nonzero, torch.nonzero, Tensor.equal, torch.equal, Tensor.unique, torch.unique),
}
COPIES = {torch.tensor, torch.as_tensor, torch.from_numpy}
"""Calls that copy values of the host to the device and wait for it; `hardware.sent` does not wait."""
STEPS = 5
"""One warms up, and one decays."""
READING_KERNELS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal")


class WaitedError(AssertionError):
    pass


class RefusedCalls(TorchFunctionMode):
    sending = False

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in READS or (function in COPIES and not RefusedCalls.sending):
            raise WaitedError(f"{function.__name__} waits for the device")
        return function(*args, **kwargs or {})


class RefusedKernels(TorchDispatchMode):
    def __torch_dispatch__(self, kernel: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if kernel.overloadpacket.__name__ in READING_KERNELS:
            raise WaitedError(f"{kernel} waits for the device")
        return kernel(*args, **kwargs or {})


@contextmanager
def no_wait() -> Iterator[None]:
    with RefusedCalls(), RefusedKernels():
        yield


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sent` may copy, and the loop leaves the count of skipped steps to its caller, which it does not on a CPU."""

    def sent(values: Any, device: torch.device) -> Tensor:
        RefusedCalls.sending = True
        try:
            return hardware.sent(values, device)
        finally:
            RefusedCalls.sending = False

    for module in (batches, augmentation, exchange):
        monkeypatch.setattr(module, "sent", sent)
    monkeypatch.setattr(loop, "require_finite", lambda *_: None)


@pytest.mark.parametrize("read", [Tensor.item, bool, float, Tensor.tolist, Tensor.cpu, torch.nonzero])
def test_reading_a_tensor_is_noticed(read: Callable[[Tensor], object]) -> None:
    with pytest.raises(WaitedError), no_wait():
        read(torch.ones(()))


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="uniform times"),
        pytest.param({"optimizer": "muon", "weight_decay": 0.1}, id="muon"),
        pytest.param({"time_sampling": "importance"}, id="times by importance"),
        pytest.param({"time_sampling": "log_normal"}, id="log-normal times"),
        pytest.param({"augment": Augment(probability=0.5, transforms=("flip", "rotate"))}, id="augmentation"),
    ],
)
def test_a_step_reads_nothing_from_the_device(changes: dict[str, Any], precision: hardware.Precision) -> None:
    settings = dataclasses.replace(tiny.SETTINGS, images=16 * STEPS, warmup_images=16, decay_images=16, **changes)
    spec = dataclasses.replace(tiny.SPEC, augmentation=augmentation.numbers_in(settings.augment))
    training = tiny.begin(tiny.NOWHERE, settings=settings, spec=spec, precision=precision, device_batch=5)
    meter, steps = Meter(CPU), training.steps()
    meter.add(next(steps))  # tables of constants are sent once
    with no_wait():
        for step in steps:
            meter.add(step)
    assert meter.sums()[0] == STEPS


def test_importance_learns_as_if_the_losses_came_one_by_one() -> None:
    process = make_process(dataclasses.replace(tiny.SPEC.schedule, T=5))
    memory: dict[str, Tensor] = {}
    times = Importance(process, memory, CPU)
    losses, seen = torch.zeros(int(process.T), HISTORY), torch.zeros(int(process.T), dtype=torch.int64)
    torch.manual_seed(0)
    for number in range(20):
        t, loss = torch.randint(1, 4, (50,)), torch.rand(50)  # some times more often than there are places
        times.learn(t, loss, skipped=torch.tensor(number % 5 == 4))
        if number % 5 == 4:
            continue
        for k, value in zip((t - 1).tolist(), loss.tolist(), strict=True):
            losses[k, int(seen[k]) % HISTORY] = value
            seen[k] += 1
    assert torch.equal(memory["losses"], losses)
    assert torch.equal(memory["seen"], seen)
