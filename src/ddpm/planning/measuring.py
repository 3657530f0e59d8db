"""The cost of a training step on this machine, measured over a few real steps."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddpm.compute.cores import cores
from ddpm.compute.launch import number_of_processes
from ddpm.compute.memory import free_bytes
from ddpm.compute.processes import LAUNCHER_VARIABLE, STORE_VARIABLE, is_worker, processes
from ddpm.compute.settings import Runtime
from ddpm.compute.waiting import wait_briefly
from ddpm.errors import UserError
from ddpm.model_spec import Spec
from ddpm.planning.trial import Job, Point, Trials
from ddpm.settings import as_dict
from ddpm.training.settings import Train

if TYPE_CHECKING:
    import torch

    from ddpm.compute.hardware import Precision


@dataclass(frozen=True)
class StepCost:
    """The cost of a training, by a few of its steps."""

    seconds: float
    """Time of a step of train.batch_size images, over all processes; infinite if not even one image fits."""
    bytes: int
    """Peak memory of the training: on a CPU, of all processes of this machine; on a GPU, of one of them."""


@dataclass(frozen=True)
class Measured(StepCost):
    """The cost of a step, and what else the same process measured."""

    images_that_fit: int
    """Number of images on a device at a time whose estimate fits into the free memory; 0: not even one."""
    parameters: int
    """Of the network, without adapters."""
    trained: int
    """Parameters that are trained, among them those of adapters; as if every layer were taken over from train.start."""
    forward_seconds: float | None
    """Time of one network evaluation for one image in one process, without gradients; None if it was not measured."""
    flops_per_second: float
    """Of a product of large matrices in one process."""
    ratios: tuple[float | None, ...]
    """For each of the models that were compared: the time of a step over that of this model; None: not measured."""


def step_cost(spec: Spec, train: Train, runtime: Runtime, device: "torch.device", precision: "Precision") -> StepCost:
    """Return the cost of a training step, see `measure`."""
    return measure(spec, train, runtime, device, precision)


def measure(
    spec: Spec,
    train: Train,
    runtime: Runtime,
    device: "torch.device",
    precision: "Precision",
    *,
    others: Sequence[Spec] = (),
    free: int | None = None,
) -> Measured:
    """Measure a few training steps on random images, in a process of its own that ends within seconds.

    It begins with one image at a time and takes more while that is quick and fits easily; the rest is extrapolated
    linearly in the number of images at a time. Nothing of this process changes, and nothing is left in its memory.
    `free`: memory in bytes that may be taken; None: all that is free on the device.

    Of several processes the share of one is measured, alone, with its share of the cores: the exchange of gradients is
    not counted. Memory on a CPU is that of all processes of this machine. With fsdp the weights, the average and the
    moments are divided by the number of processes, with hybrid by that of a machine.
    runtime.compile is not counted: a step is measured without it.
    Raises UserError if the process fails for another reason than memory.
    """
    number = processes_of(runtime)
    parts, at_a_time = division(train.batch_size, runtime)
    free = free_bytes(device) if free is None else free
    here = _processes_here(number) if device.type != "cuda" else 1
    job = Job(
        spec=spec,
        train=train,
        runtime=runtime,
        device=str(device),
        precision=precision,
        images=at_a_time,
        parts=parts,
        limit_bytes=free // here,
        others=tuple(others),
    )
    trials = _run(job, number)
    if not trials.points:
        return Measured(math.inf, free + 1, 0, 0, 0, None, trials.flops_per_second, (None,) * len(others))
    seconds = _seconds(trials, at_a_time)
    more = seconds if trials.part_seconds is None else trials.part_seconds
    shares = {"ddp": 1, "fsdp": number, "hybrid": _processes_here(number)}[runtime.parallel]
    memory = _Memory.of(trials, spec=spec, batch=train.batch_size, number=number, shares=shares)
    return Measured(
        seconds=seconds + (parts - 1) * more,
        bytes=here * memory.of_images(at_a_time),
        images_that_fit=memory.images_within(free // here),
        parameters=trials.parameters,
        trained=trials.trained,
        forward_seconds=trials.forward_seconds,
        flops_per_second=trials.flops_per_second,
        ratios=(*trials.ratios, *[None] * (len(others) - len(trials.ratios))),
    )


def processes_of(runtime: Runtime) -> int:
    """Return the number of processes of a training: of this one in a worker, else of one that would begin here."""
    return processes() if is_worker() else number_of_processes(runtime)


def division(batch_size: int, runtime: Runtime) -> tuple[int, int]:
    """Return how many parts a process divides its share of a batch into, and the images of a part."""
    share = -(-batch_size // processes_of(runtime))
    parts = -(-share // (runtime.device_batch or share))
    return parts, -(-share // parts)


@dataclass(frozen=True)
class _Memory:
    """The memory of a process in training: linear in the number of images at a time."""

    fixed: float
    per_image: float

    @classmethod
    def of(cls, trials: Trials, *, spec: Spec, batch: int, number: int, shares: int) -> "_Memory":
        first, last = trials.points[0], trials.points[-1]
        noise = 4 * math.prod(spec.noise_shape)  # every process draws that of the whole batch
        if first is last:
            per_image = max(0.0, last.bytes - 4.0 * trials.held)
        else:
            per_image = max(0.0, (last.bytes - first.bytes) / (last.images - first.images))
        fixed = last.bytes - per_image * last.images + noise * max(0, batch - last.images)
        if number > 1:
            # DDP has the gradients once more.
            fixed += 4 * (trials.held * (1 / shares - 1) if shares > 1 else trials.trained)
        return cls(max(0.0, fixed), max(per_image, float(noise)))

    def of_images(self, images: int) -> int:
        return round(self.fixed + self.per_image * images)

    def images_within(self, limit: float) -> int:
        return max(0, math.floor((limit - self.fixed) / self.per_image))


def _seconds(trials: Trials, images: int) -> float:
    """Return the time of a step of `images` images: measured, or extrapolated linearly from the last two points."""
    last = trials.points[-1]
    per_image = last.seconds / last.images
    slope = per_image
    if len(trials.points) > 1:
        before = trials.points[-2]
        slope = (last.seconds - before.seconds) / (last.images - before.images)
    slope = min(max(slope, trials.least_per_image), per_image)  # within what noise cannot change
    return last.seconds + slope * (images - last.images)


def _processes_here(number: int) -> int:
    """Return how many of the processes share this machine."""
    return min(number, int(os.environ.get("LOCAL_WORLD_SIZE", number)))


def _run(job: Job, number: int) -> Trials:
    """Run the trial; without points if it was killed, which is what happens when memory runs out unnoticed."""
    done = subprocess.run(
        [sys.executable, "-m", "ddpm.planning.trial"],
        input=json.dumps(as_dict(job)),
        env=_environment(number),
        capture_output=True,
        text=True,
    )
    if done.returncode < 0:
        return Trials()
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it printed nothing"]
        raise UserError(
            f"a few training steps, by which the plan is made, ended with an error ({lines[-1]}) with which the "
            "training would end, too; correct it, usually in section network, train or runtime of params.yaml"
        )
    values = json.loads(done.stdout)
    return Trials(**values | {"points": [Point(**point) for point in values["points"]]})


def _environment(number: int) -> dict[str, str]:
    """Return the environment of a process that is alone and has as many threads as one of `number` would have."""
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
    without = {*ranks, LAUNCHER_VARIABLE, STORE_VARIABLE}
    environment = {name: value for name, value in os.environ.items() if name not in without}
    wait_briefly(environment)
    if number > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // number)))
    return environment
