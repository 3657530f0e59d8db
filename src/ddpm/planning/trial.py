"""A short-lived process that trains a few steps and prints what they cost: `python -m ddpm.planning.trial`.

It is a process of its own because the peak memory of a process never falls, because nothing of it may stay in the
training (random state, memory), and because only it fails where memory runs out. It reads a `Job` as JSON from its
standard input and writes `Trials` as JSON to its standard output.
"""

import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.compute.settings import Runtime
from ddpm.model_spec import Spec
from ddpm.networks.settings import START
from ddpm.settings import section
from ddpm.training.settings import Train

if TYPE_CHECKING:
    import numpy as np

    from ddpm.training.start import Parent

GROWTH_SECONDS = 4.0
"""Time after which no larger number of images is tried."""
SLOW_SECONDS = 2.0
"""After a first step that takes this long, only one more is measured."""
_VERY_SLOW_SECONDS = 10.0
"""A step that takes this long is measured once: what the first takes longer than later ones is little."""
_INEFFICIENCY = 4.0
"""Assumed time of a step's arithmetic, as a multiple of that of a product of large matrices."""
_REPEAT_SECONDS = 0.3
_REPEATS = 3
_COMPARISON_SECONDS = 6.0
"""Time after which no other model is compared."""
_STATE_FOLDER = Path("no-state-of-a-trial")
"""It is never made: a trial saves nothing."""


@section
class Job:
    """What is measured."""

    spec: Spec
    train: Train
    runtime: Runtime
    device: str
    precision: str
    images: int
    """Images on the device at a time in the training: more are not tried."""
    parts: int
    """Number of times that a training step accumulates gradients."""
    limit_bytes: int
    """Memory that may be taken. An attempt whose estimate passes half of it is not made."""
    others: tuple[Spec, ...]
    """Models whose step is compared with that of `spec`."""


@dataclass(frozen=True)
class Point:
    """One measured number of images."""

    images: int
    seconds: float
    """Median time of a step."""
    bytes: int
    """Peak memory beyond that of the process without a training."""


@dataclass
class Trials:
    """What was measured."""

    points: list[Point] = field(default_factory=list)
    """Few images first; empty if not even one image fits into memory."""
    part_seconds: float | None = None
    """Time of one more part of a step that accumulates gradients; None if it was not measured."""
    forward_seconds: float | None = None
    """Time of one network evaluation for one image, without gradients."""
    parameters: int = 0
    """Of the network."""
    trained: int = 0
    """Parameters that are trained, among them those of adapters."""
    held: int = 0
    """Numbers in memory beside activations: weights, gradients, average and two moments."""
    flops_per_second: float = 0.0
    """Of a product of large float32 matrices, by which distances of images are computed."""
    least_per_image: float = 0.0
    """Time of a step's arithmetic for one image at that speed."""
    ratios: list[float | None] = field(default_factory=list)
    """For each of `Job.others`: the time of its step over that of `Job.spec`; None if it was not measured."""


def main() -> None:
    from pydantic import TypeAdapter

    job = TypeAdapter(Job).validate_json(sys.stdin.read(), strict=True)
    with _stdout_to_stderr() as out:
        trials = run(job)
        out.write(json.dumps(asdict(trials)))


def run(job: Job) -> Trials:
    """Measure. If memory runs out, return what was measured before."""
    from ddpm.compute.hardware import is_out_of_memory, set_determinism

    set_determinism(job.runtime.deterministic)
    bench = _Bench(job)
    bench.warm_up()
    _limit_memory(job)
    trials = Trials()
    try:
        trials.flops_per_second = bench.matrix_speed()
        _measure_growth(job, bench, trials)
        _measure_rest(job, bench, trials)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    return trials


def _measure_growth(job: Job, bench: "_Bench", trials: Trials) -> None:
    """Measure 1, 16, 256, … images, or as many as are quick and fit easily, until there are `job.images`."""
    began, n, following = bench.spent, 0, 1
    while following >= 2 * n or following == job.images > n:
        n = following
        trials.points.append(bench.point(job.spec, n))
        trials.parameters, trials.trained, trials.held = bench.sizes
        trials.least_per_image = bench.flops_per_image / trials.flops_per_second
        left = GROWTH_SECONDS - (bench.spent - began)
        affordable = min(_within_seconds(trials, left / 2), _within_bytes(trials, job.limit_bytes / 2))
        following = min(job.images, 16 * n, affordable)
        if n == job.images:
            return


def _within_seconds(trials: Trials, seconds: float) -> int:
    """Return how many images a step of this time has, by their arithmetic: the time of few is mostly not theirs."""
    last = trials.points[-1]
    return last.images + math.floor((seconds - last.seconds) / (_INEFFICIENCY * trials.least_per_image))


def _within_bytes(trials: Trials, limit: float) -> int:
    """Return how many images fit into the limit, linearly; all memory of a single point counts as its images'."""
    first, last = trials.points[0], trials.points[-1]
    if first is last:
        return math.floor(limit / max(1, last.bytes / last.images))
    slope = max(1.0, (last.bytes - first.bytes) / (last.images - first.images))
    return last.images + math.floor((limit - last.bytes) / slope)


def _measure_rest(job: Job, bench: "_Bench", trials: Trials) -> None:
    n = max((point.images for point in trials.points if point.seconds < SLOW_SECONDS), default=1)
    seconds = next(point.seconds for point in trials.points if point.images == n)
    last = trials.points[-1]
    trials.forward_seconds = bench.forward_seconds(job.spec, min(last.images, job.runtime.sample_batch))
    if job.parts > 1 and last.images == job.images and last.seconds < SLOW_SECONDS:
        two_parts = bench.step_seconds(job.spec, 2 * last.images, at_a_time=last.images)
        trials.part_seconds = max(0.0, two_parts - last.seconds)
    began = bench.spent
    for other in job.others:
        in_time = bench.spent - began < _COMPARISON_SECONDS
        trials.ratios.append(bench.step_seconds(other, n) / seconds if in_time else None)


class _Bench:
    """Runs steps of a training on random images, through the code that trains."""

    def __init__(self, job: Job) -> None:
        import torch

        from ddpm.networks.native_norm import turn_on_where_it_serves

        self.job, self.device, self.flops_per_image = job, torch.device(job.device), 0
        turn_on_where_it_serves(job.runtime.native_norm, self.device, job.precision)
        self.sizes = (0, 0, 0)
        """`parameters`, `trained` and `held` of the trials, for the last model."""
        self.spent = 0.0
        """Seconds that were measured so far."""
        self._memory_before = _resident_peak()

    def point(self, spec: Spec, n: int) -> Point:
        """Return time and peak memory of a step with n images; at the first, count its arithmetic."""
        return Point(n, self.step_seconds(spec, n, count=not self.flops_per_image), self._peak_bytes())

    def _peak_bytes(self) -> int:
        import torch

        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        grown = _resident_peak() - self._memory_before
        return max(grown, torch.mps.driver_allocated_memory()) if self.device.type == "mps" else grown

    def warm_up(self) -> None:
        """Train a tiny network, so that what the first step of a process loads and imports is not measured."""
        spec = self.job.spec
        if spec.vae is not None:
            tiny = replace(spec, size=8, vae=replace(spec.vae, width=8, latent_size=1))
        elif spec.gan is not None:
            tiny = replace(spec, size=8, gan=replace(spec.gan, width=8))
        else:
            unet = replace(spec.network, width=8, head_channels=8, groups=None, patch=1, attention=(8,))
            picture = None if spec.image is None else replace(spec.image, factor=2)
            size = 8 if spec.codec is None else 8 * spec.codec.factor
            tiny = replace(spec, size=size, network=unet, image=picture)
        self.step_seconds(tiny, 1)
        self._memory_before = _resident_peak()

    def step_seconds(self, spec: Spec, n: int, *, at_a_time: int | None = None, count: bool = False) -> float:
        """Return the time of a training step with n images, of which `at_a_time` are on the device at a time."""
        from torch.utils.flop_counter import FlopCounterMode

        from ddpm.training import session
        from ddpm.training.curves import Meter

        # The rate is small, so that nothing overflows; the length is out of reach.
        settings = replace(
            self.job.train,
            images=10**12,
            batch_size=n,
            lr=1e-6,
            warmup_images=0,
            decay_images=0,
            max_nonfinite_steps=10**9,
        )
        training = session.begin(
            spec,
            _samples(spec, n),
            None if spec.image is not None else _conditions(spec, n),
            data_hash="random",
            code_hash="of a trial",
            settings=settings,
            runtime=replace(self.job.runtime, resume="never", compile=False, device_batch=at_a_time),
            device=self.device,
            precision=self.job.precision,  # type: ignore[arg-type]
            state_folder=_STATE_FOLDER,
            parent=_stand_in(spec) if settings.lora.rank else None,
        )
        weights = sum(p.numel() for p in training.state.network.parameters())
        self.sizes = training.parameters, training.trained, 2 * weights + 3 * training.trained
        steps, meter = training.steps(), Meter(self.device, terms=training.terms)

        def step() -> None:
            meter.add(next(steps))

        if count:
            with FlopCounterMode(display=False) as counter:
                # Only the total is read, and its hooks on modules do not allow the gradient within R1 of a GAN.
                counter.mod_tracker.__exit__()
                step()
            self.flops_per_image = max(1, counter.get_total_flops() // n)
        return self._seconds(step)

    def forward_seconds(self, spec: Spec, n: int) -> float:
        """Return the time of a network evaluation per image, n at a time."""
        import torch

        from ddpm.compute.hardware import autocast
        from ddpm.model_spec import build_network
        from ddpm.networks.conditioned import DirectNetwork

        network = build_network(spec).to(self.device).eval()
        x = torch.randn(n, *spec.noise_shape, device=self.device)
        t = torch.zeros(n, device=self.device)
        found = _conditions(spec, n)
        condition = None if found is None else torch.from_numpy(found).to(self.device)

        def evaluate() -> None:
            with torch.inference_mode(), autocast(self.device, self.job.precision):  # type: ignore[arg-type]
                if isinstance(network, DirectNetwork):
                    network.draw(x, condition)
                else:
                    network(x, t, condition)

        return self._seconds(evaluate) / n

    def matrix_speed(self) -> float:
        """Return the floating-point operations per second of a product of float32 matrices."""
        import torch

        size = 512
        a = torch.randn(size, size, device=self.device)
        return 2 * size**3 / self._seconds(lambda: a @ a)

    def _seconds(self, act: Callable[[], object]) -> float:
        """Return the median time, without the first, which prepares kernels; of a very slow act, that of the first."""
        first = self._timed(act)
        if first > _VERY_SLOW_SECONDS:
            return first
        if first > SLOW_SECONDS:
            return min(first, self._timed(act))
        times = [self._timed(act)]
        while len(times) < _REPEATS and sum(times) < _REPEAT_SECONDS:
            times.append(self._timed(act))
        return statistics.median(times)

    def _timed(self, act: Callable[[], object]) -> float:
        """Return the seconds that `act` takes: on a CPU its processor time if that is less, as where others compute."""
        import torch

        began, began_computing = time.perf_counter(), time.process_time()
        act()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        taken, computing = time.perf_counter() - began, time.process_time() - began_computing
        seconds = min(taken, computing) if self.device.type == "cpu" else taken
        self.spent += seconds
        return seconds


def _conditions(spec: Spec, n: int) -> "np.ndarray | None":
    """Return a stand-in condition for n images, to measure a step with it; None for a model without condition."""
    import numpy as np

    if spec.image is not None:
        return np.zeros((n, spec.image.planes(spec.channels), spec.size, spec.size), np.float32)
    if spec.text is not None:  # without the library of the tokenizer, since only their number matters
        return np.full((n, spec.text.length), START, np.int32)
    return np.arange(n) % len(spec.classes) if spec.classes else None


def _samples(spec: Spec, n: int) -> Any:
    """Return n random samples as they are stored: images, or latents of images."""
    import numpy as np

    random = np.random.default_rng(0)
    if spec.draws_latents:
        return random.standard_normal((n, *spec.noise_shape)).astype(np.float16)
    return random.integers(0, 256, (n, spec.channels, spec.size, spec.size), dtype=np.uint8)


def _stand_in(spec: Spec) -> "Parent":
    """Return a parent of which every layer is taken over; which model it will be is decided when a training begins."""
    from ddpm.model_file import Model
    from ddpm.model_spec import build_network
    from ddpm.training.start import Parent

    return Parent({"name": "stand-in", "sha256": ""}, Model(build_network(spec), spec, lineage={}, sha256=""))


def _resident_peak() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    try:
        # Not ru_maxrss, which on Linux begins with the peak of the process that started this one.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def _limit_memory(job: Job) -> None:
    """Let allocations beyond the limit fail, so that a huge network does not take the memory of other processes."""
    import psutil

    if job.device.startswith("cuda") or not sys.platform.startswith("linux"):
        return  # a GPU refuses by itself; other systems do not enforce the limit
    limit = psutil.Process().memory_info().vms + job.limit_bytes
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


@contextmanager
def _stdout_to_stderr() -> Iterator[Any]:
    """Keep the standard output for the result: whatever prints in the block prints to standard error."""
    out, sys.stdout = sys.stdout, sys.stderr
    try:
        yield out
    finally:
        sys.stdout = out


if __name__ == "__main__":
    main()
