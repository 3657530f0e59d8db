"""One training step: where its time goes, what its arithmetic must cost, and which precision and layout is fastest."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from common import take_turns
from peaks import conv_peak, matmul_peak
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from ddpm.compute import hardware
from ddpm.diffusion.processes import make_process
from ddpm.model_spec import Spec, build_network
from ddpm.networks.ema import Ema
from ddpm.networks.settings import CONVENTION, Network
from ddpm.params import Params
from ddpm.training.batches import Batches
from ddpm.training.loop import Step, new_state, train
from ddpm.training.methods.diffusion import Diffusion
from ddpm.training.times import make_times

WARM_UP_STEPS = 3
OTHER = "other"
# An operation belongs to the first group whose word its name contains; all that runs within a marked part, to that.
GROUPS = {
    "convolution": ("conv",),
    "normalisation": ("group_norm", "native_layer_norm"),
    "attention": ("scaled_dot_product", "flash_attention", "softmax", "bmm"),
    "activation": ("silu", "sigmoid"),
    "linear layers": ("addmm", "aten::mm", "aten::linear"),
    "concatenation, resampling, padding": ("aten::cat", "pool", "upsample", "pad", "slice_backward", "narrow"),
    "casts, copies, sums": ("aten::copy_", "aten::_to_copy", "aten::add", "aten::mul", "aten::sum", "aten::fill_"),
}
MARKED = ("data", "clipping", "optimizer", "EMA")


@dataclass(frozen=True)
class Setting:
    """A network, the size of its images and of its batch."""

    name: str
    size: int
    channels: int
    batch: int
    network: Network


@dataclass(frozen=True)
class Profile:
    """Of one step: seconds by group, in all, and what the arithmetic must take."""

    setting: Setting
    precision: hardware.Precision
    seconds: float
    by_group: dict[str, float]
    convolution_flops: int
    other_flops: int
    convolution_peak: float
    """FLOP/s."""
    matmul_peak: float

    @property
    def floor(self) -> float:
        """Seconds: every convolution and every product at the device's own best."""
        return self.convolution_flops / self.convolution_peak + self.other_flops / self.matmul_peak


def settings(params: Params) -> list[Setting]:
    """What params.yaml trains on the digits, and a network for 32x32 colour."""
    larger = replace(params.network, width=64, multipliers=(1, 2, 2), attention=(16,))
    return [
        Setting("8x8, as in params.yaml", 8, 1, params.train.batch_size, params.network),
        Setting("32x32 colour, width 64, multipliers [1, 2, 2]", 32, 3, 32, larger),
    ]


def steps(setting: Setting, params: Params, device: torch.device, precision: hardware.Precision) -> Iterator[Step]:
    """An endless training of the setting's network on random images: the time does not depend on what they show."""
    spec = Spec(
        channels=setting.channels,
        size=setting.size,
        classes=tuple(str(k) for k in range(10)),
        unconditional=True,
        schedule=params.schedule,
        objective=params.objective,
        network=setting.network,
        convention=CONVENTION,
    )
    process = make_process(spec.schedule)
    random = np.random.default_rng(0)
    n = 4 * setting.batch
    images = random.integers(0, 256, (n, setting.channels, setting.size, setting.size), dtype=np.uint8)
    train_settings = replace(params.train, images=10**12, batch_size=setting.batch)
    state = new_state(build_network(spec).to(device), settings=train_settings)
    labels, flip = random.integers(0, 10, n), train_settings.flip
    return train(
        state,
        Batches(images, labels, batch_size=setting.batch, seed=0, flip=flip, device=device),
        method=Diffusion(
            process, make_times(process, train_settings, memory=state.times, device=device), spec.objective
        ),
        settings=train_settings,
        device=device,
        precision=precision,
    )


def profile_step(setting: Setting, params: Params, device: torch.device, *, n: int) -> Profile:
    """Means over `n` steps after warming up; the seconds are measured without the profiler, the shares with it."""
    precision = hardware.choose_precision("auto", device, setting.size)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with _marked():
        running = steps(setting, params, device, precision)
        _take(running, WARM_UP_STEPS, device)
        seconds = _take(running, n, device) / n
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
        with profile(activities=activities, acc_events=True) as profiled:
            _take(running, n, device)
        with FlopCounterMode(display=False) as counted:
            _take(running, 1, device)
    by_group = _grouped(profiled.events(), on_device=device.type == "cuda")
    measured = sum(by_group.values())
    flops = {str(name): count for name, count in counted.get_flop_counts()["Global"].items()}
    convolution = sum(count for name, count in flops.items() if "conv" in name)
    return Profile(
        setting,
        precision,
        seconds,
        {name: seconds * part / measured for name, part in by_group.most_common()},
        convolution_flops=convolution,
        other_flops=sum(flops.values()) - convolution,
        convolution_peak=conv_peak(device, dtype),
        matmul_peak=matmul_peak(device, dtype),
    )


def layouts(setting: Setting, params: Params, device: torch.device, *, n: int, rounds: int) -> dict[str, list[float]]:
    """Images/s in each round, of float32 and bf16, each with contiguous and with channels_last tensors."""
    measures = {
        f"{precision}, {name}": _speed(setting, params, device, precision, layout, n)
        for precision in ("float32", "bf16")
        for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last))
    }
    return take_turns(measures, rounds=rounds)


def _speed(
    setting: Setting,
    params: Params,
    device: torch.device,
    precision: hardware.Precision,
    layout: torch.memory_format,
    n: int,
) -> Callable[[], float]:
    with patch("ddpm.training.loop.memory_format", lambda *_: layout):
        running = steps(setting, params, device, precision)
        _take(running, WARM_UP_STEPS, device)  # the loop asks for the layout once, before its first step
    return lambda: n * setting.batch / _take(running, n, device)


def _take(running: Iterator[Step], n: int, device: torch.device) -> float:
    """Seconds of `n` steps."""
    began = time.perf_counter()
    for _ in range(n):
        next(running)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


@contextmanager
def _marked() -> Iterator[None]:
    """The parts of a step that consist of everyday operations carry their names in the profile."""

    def marked(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with record_function(name):
                return function(*args, **kwargs)

        return run

    parts = ((Batches, "at", "data"), (Ema, "update", "EMA"), (torch.nn.utils, "clip_grad_norm_", "clipping"))
    with ExitStack() as stack:
        for owner, name, called in parts:
            stack.enter_context(patch.object(owner, name, marked(getattr(owner, name), called)))
        yield


def _grouped(events: Any, *, on_device: bool) -> Counter[str]:
    """Microseconds by group: each operation's own time, without that of the operations it calls."""
    sums: Counter[str] = Counter()
    for event in events:
        own = event.self_device_time_total if on_device else event.self_cpu_time_total
        sums[_group_of(event)] += own
    return sums


def _group_of(event: Any) -> str:
    """Of the outermost marked part that the operation runs in; else by its own name, or that of its callers."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    for name in reversed(names):
        if name in MARKED:
            return name
        if name.startswith("Optimizer.step"):
            return "optimizer"
    if any("_GroupNorm" in name for name in names):  # kernels.group_norm, made of everyday operations
        return "normalisation"
    for name in names:
        for group, words in GROUPS.items():
            if any(word in name for word in words):
                return group
    return OTHER
