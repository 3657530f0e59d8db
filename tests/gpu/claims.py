"""What must hold on a GPU as on a CPU: each claim is a function of the device.

test_on_gpu.py calls them with a CUDA device, and test_on_cpu.py with the CPU, so that a mistake in a claim is found on
a machine without a GPU.
"""

import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import tiny_training as tiny
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ddpm import model_file
from ddpm.compute import hardware
from ddpm.compute.hardware import Precision
from ddpm.compute.processes import joined, leads, processes
from ddpm.errors import UserError
from ddpm.generation.generate import generate
from ddpm.generation.recipe import neutral
from ddpm.measuring.features.classifier import Classifier
from ddpm.measuring.features.extractor import Extractor, describe
from ddpm.tracker import NullTracker
from ddpm.training import session
from ddpm.training.augmentation import numbers_in
from ddpm.training.curves import Meter
from ddpm.training.run import Stopped
from ddpm.training.settings import Augment, Train

SPEC = replace(tiny.SPEC, network=replace(tiny.SPEC.network, dropout=0.0))
"""Without dropout, whose masks are drawn inside the network and differ between devices."""
BATCH = tiny.SETTINGS.batch_size
WARM_UP_STEPS = 3
"""The first steps allocate buffers and choose kernels, for which the host may wait."""


def begin(folder: Path, device: torch.device, *, settings: Train = tiny.SETTINGS, **changes: Any) -> session.Training:
    """Return a new tiny training; see `tiny_training.begin`."""
    changes = {"spec": SPEC, "deterministic": False} | changes
    if changes.get("compile"):
        torch.compiler.reset()  # or the graphs of other tests count towards torch's limit of recompilations
    return tiny.begin(folder, settings=settings, device=device.type, **changes)


def losses(
    folder: Path,
    device: torch.device,
    *,
    precision: Precision = "float32",
    layout: torch.memory_format | None = None,
    steps: int = 8,
    **changes: Any,
) -> list[float]:
    """Return the losses of the first steps with the CPU's random numbers and without TF32.

    `layout` replaces the memory layout that the device and the precision select.
    """
    chosen = nullcontext() if layout is None else patch("ddpm.training.loop.memory_format", lambda *_: layout)
    with same_numbers(), without_tf32(), chosen:
        training = begin(folder, device, precision=precision, **changes)
        return [float(step.loss) for step in islice(training.steps(), steps)]


@contextmanager
def same_numbers() -> Iterator[None]:
    """Draw every random number on the CPU, in the order of positions, whatever device and layout it is for."""
    normal, multinomial = torch.randn, torch.multinomial

    def on_cpu(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *shape, device=None, **options: draw(*shape, **options).to(device or "cpu")

    def normal_like(x: Tensor, **_: object) -> Tensor:
        return torch.empty_like(x).copy_(normal(x.shape))

    def from_weights(weights: Tensor, n: int, **options: Any) -> Tensor:
        return multinomial(weights.cpu(), n, **options).to(weights.device)

    replaced = {name: on_cpu(getattr(torch, name)) for name in ("rand", "randn", "randint")}
    replaced |= {"randn_like": normal_like, "multinomial": from_weights}
    with ExitStack() as stack:
        for name, function in replaced.items():
            stack.enter_context(patch.object(torch, name, function))
        yield


@contextmanager
def without_tf32() -> Iterator[None]:
    """Convolutions and matrix products of float32 compute in float32."""
    products = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = products


WAITING: dict[str, dict[str, Any]] = {
    "AdamW, uniform times": {},
    "Muon": {"optimizer": "muon"},
    "log-normal times": {"time_sampling": "log_normal"},
    "importance": {"time_sampling": "importance"},
    "flipped": {"flip": True},
    "augmented": {"augment": Augment(probability=0.5, transforms=("flip", "scale", "rotate", "stretch", "shift"))},
}
"""Settings of training in which a step must not make the host wait for the device."""


@contextmanager
def refusing_waits(device: torch.device) -> Iterator[None]:
    """Raise an error inside the block wherever the host waits for a GPU. training/test_no_wait.py does so for a CPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def step_without_waiting(
    folder: Path, device: torch.device, *, resident: bool, steps: int = 4, compile: bool = False, **changes: Any
) -> None:
    """Take steps, and add them to the curves, without a wait. `resident`: the images are in the device's memory."""
    settings = replace(tiny.SETTINGS, **changes)
    spec = replace(SPEC, augmentation=numbers_in(settings.augment))
    full = nullcontext() if resident else patch("torch.cuda.mem_get_info", lambda *_: (0, 0))
    with full:
        training = begin(folder, device, settings=settings, spec=spec, compile=compile)
    running, meter = training.steps(), Meter(device)
    for _ in range(WARM_UP_STEPS):
        meter.add(next(running))
    with refusing_waits(device):
        for _ in range(steps):
            meter.add(next(running))
    assert training.state.images_seen == (WARM_UP_STEPS + steps) * BATCH


def skip_a_step_that_is_not_finite(folder: Path, device: torch.device, **changes: Any) -> None:
    """Make the third step's gradient NaN: it must change no bit of the state except what counts steps."""
    training = begin(folder, device, settings=replace(tiny.SETTINGS, **changes))
    state = training.state

    def spoil(network: nn.Module, args: object, answer: Tensor) -> Tensor | None:
        return answer * math.nan if state.images_seen == 3 * BATCH else None

    state.network.register_forward_hook(spoil)
    running = training.steps()
    next(running), next(running)
    before = contents(training)
    step = next(running)
    assert bool(step.skipped)
    assert (int(state.nonfinite_steps), int(state.nonfinite_in_a_row)) == (1, 1)
    assert different(before, contents(training)) == []
    step = next(running)
    assert not bool(step.skipped)
    assert (int(state.nonfinite_steps), int(state.nonfinite_in_a_row)) == (1, 0)
    assert {name.split(".")[0] for name in different(before, contents(training))} == {"network", "ema", "optimizer"}


def contents(training: session.Training) -> dict[str, Tensor]:
    """Return copies of the weights, the average and the moments of a training."""
    state = training.state
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in state.ema.network.state_dict().items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    return {name: value.detach().clone() for name, value in tensors.items()}


def different(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors of which a bit differs."""
    assert before.keys() == after.keys()
    return [name for name, value in before.items() if not torch.equal(value, after[name])]


class _StoppedAtTheFirstRow(NullTracker):
    def log(self, metrics: Mapping[str, float], *, images_seen: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def continue_bitwise(folder: Path, device: torch.device, **changes: Any) -> None:
    """Stop a training and continue it: every bit of its state must be that of one that was not stopped.

    The process must have called `set_determinism(True)` before it used CUDA.
    """
    options = {"deterministic": True, "checkpoint_seconds": 1e9, "spec": tiny.SPEC} | changes
    undisturbed = begin(folder / "undisturbed", device, **options)
    tiny.run(undisturbed)
    with pytest.raises(Stopped):
        tiny.run(begin(folder / "stopped", device, **options), _StoppedAtTheFirstRow())
    continued = begin(folder / "stopped", device, **options)
    assert 0 < continued.state.images_seen < tiny.SETTINGS.images
    tiny.run(continued)
    assert different(contents(undisturbed), contents(continued)) == []


def sampled(model: Path, device: torch.device, sampler: str) -> Tensor:
    """Return 8 images of an untrained model, int16 [8,C,H,W]."""
    loaded = model_file.load(model, device)
    recipe = replace(neutral(sampler=sampler, steps=8), guidance=1.5, precision="float32")
    with without_tf32():
        images = generate(loaded, recipe, n=8, seed=3, condition=torch.arange(8) % 4, batch=8)
    return images.to(torch.int16)


def require_alike(images: Tensor, others: Tensor) -> None:
    """Allow what rounding to one of 256 levels makes of differences in the last bits of float32."""
    difference = (images - others).abs().float()
    assert images.float().std() > 10, "the images are flat, so nothing is compared"
    assert difference.mean() < 0.1
    assert difference.max() <= 8


def divided_losses(folder: Path, device: torch.device, parallel: str) -> None:
    """Write the losses of a divided training to `folder`/losses.json; called by every process of it.

    One process alone goes through the code of several, too: its gradients pass through DDP or its weights through FSDP.
    """
    with joined(replace(tiny.PARAMS.runtime, device=device.type)), without_tf32(), ExitStack() as stack:
        alone = processes() == 1
        if alone and parallel == "ddp":
            wrapped = lambda network, *_, **__: DistributedDataParallel(network)  # noqa: E731
            stack.enter_context(patch("ddpm.training.loop.replicated", wrapped))
        with patch("ddpm.training.loop.processes", lambda: 2) if alone and parallel == "fsdp" else nullcontext():
            training = begin(folder / "state", device, parallel=parallel)
        found = [float(step.loss) for step in islice(training.steps(), 6)]
        weights = {name: tensor.cpu() for name, tensor in training.average().state_dict().items()}
        if leads():
            total = sum(float(tensor.double().abs().sum()) for tensor in weights.values())
            (folder / "losses.json").write_text(json.dumps({"losses": found, "weights": total}))


def undivided_losses(folder: Path, device: torch.device) -> dict[str, Any]:
    """Return what `divided_losses` writes, of a training in one process that knows of no others."""
    with without_tf32():
        training = begin(folder / "alone", device)
        found = [float(step.loss) for step in islice(training.steps(), 6)]
    weights = training.state.ema.network.state_dict().values()
    return {"losses": found, "weights": sum(float(tensor.double().abs().sum()) for tensor in weights)}


def run_out_of_memory(folder: Path, device: torch.device) -> None:
    """A training whose memory runs out must end in one sentence, and the device must stay usable."""
    training = begin(folder, device)

    def allocate(*_: object) -> None:
        if training.state.images_seen > 2 * BATCH:
            torch.empty(1 << 60, dtype=torch.uint8, device=device)

    training.state.network.register_forward_pre_hook(allocate)
    with pytest.raises(UserError, match=rf"memory of {device} ran out with {BATCH} images in a step; lower"):
        tiny.run(training)
    assert float(torch.ones(3, device=device).sum()) == 3


def features(device: torch.device) -> Tensor:
    """Return features of random images, float32 [64,16], and require that no TF32 is used for them."""
    torch.manual_seed(0)
    network = Classifier(channels=3, size=32, classes=10, dim=16).to(device).eval()
    seen = []

    def note(*_: object) -> None:
        seen.append(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)

    network.register_forward_pre_hook(note)
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
    described = describe(
        Extractor(network, "classifier", 0.0), images, device=device, progress=False, what="images", turns=0
    )
    assert seen
    assert not any(seen), "features were computed with TF32 allowed"
    return described.features


def compile_once(folder: Path, device: torch.device, precision: Precision) -> None:
    """After its first steps a compiled training must not be compiled again."""
    training = begin(folder, device, compile=True, precision=precision)
    running = training.steps()
    for _ in range(2):
        next(running)
    with torch.compiler.set_stance("fail_on_recompile"):
        for _ in range(3):
            last = next(running)
    assert math.isfinite(float(last.loss))


CALLED_ALONE: dict[str, Callable[..., None]] = {"continue": continue_bitwise, "divided": divided_losses}
"""Claims that need a process of their own, because they change settings of the whole process."""

if __name__ == "__main__":
    name, place, on, options = sys.argv[1:]
    hardware.set_determinism(name == "continue")
    CALLED_ALONE[name](Path(place), torch.device(on), **json.loads(options))
