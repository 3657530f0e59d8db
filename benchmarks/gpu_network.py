"""Training and sampling of the 35.7M network of Ho et al. 2020 on a GPU, beside diffusers with the same weights."""

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common import take_turns
from contenders import same_weights
from contenders.ours import setting_of
from contenders.same_network import Steps
from gpu_run import Found, Run, wait_for
from peaks import conv_peak, matmul_peak
from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from training import (
    AS_USED,
    OURS,
    SAME_TRICKS,
    Work,
    flops_of,
    images_per_second,
    refuse_another_network,
    save_unet,
    unet_config,
)

from ddpm import model_file
from ddpm.generation.recipe import recipe_in

EVALUATIONS, MANY_STEPS = 10, 100


@contextmanager
def _work(run: Run, batch: int) -> Iterator[Work]:
    """What all contenders get: the saved network, and images of noise."""
    config = unet_config("tiny" if run.tiny else "cifar10")
    size, n = config["sample_size"], 64 if run.tiny else 10_000
    images = np.random.default_rng(0).integers(0, 256, (n, config["in_channels"], size, size), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        save_unet(config, Path(folder))
        yield Work(config, Path(folder), images, batch, run.device, compiled=False)


def training(run: Run, batch: int) -> Found:
    """Training at one batch size: images/s in turns, their share of the peaks, memory, and time without work."""
    steps, rounds, warm_up = (1, 1, 1) if run.tiny else (max(3, 2560 // batch), 3, 5)
    name = f"batch {batch}: "
    with _work(run, 8 if run.tiny else batch) as work:
        eager, _ = _begun(work, OURS, warm_up)
        compiling = replace(work, compiled=True)
        began = time.perf_counter()
        compiled, compiled_memory = _begun(compiling, OURS, warm_up)
        yield name + "seconds until the first compiled step", time.perf_counter() - began
        yield name + "peak memory, compiled", None if compiled_memory is None else compiled_memory / 1e9
        flops = flops_of(eager, work.images.shape[1:], run.device)
        contenders = {"eager": eager, "compiled": compiled}
        speeds = _in_turns(run, work, contenders, steps, rounds)
        yield name + "images/s", median(speeds["eager"])
        yield name + "images/s, compiled", median(speeds["compiled"])
        yield name + "compiled over eager", _ratio(speeds, "compiled", "eager")
        for kind in ("matrix", "convolution"):
            yield name + f"share of the {kind} peak, compiled", _ratio(speeds, "compiled", kind) * flops
        yield name + "time without work for the GPU", _idle_share(eager, steps, run.device)
        yield name + "time without work for the GPU, compiled", _idle_share(compiled, steps, run.device)
        del eager, contenders["eager"]

        as_used, as_used_memory = _begun(work, AS_USED, 0)
        refuse_another_network({OURS: work.contender(OURS), AS_USED: as_used}, work)
        as_used.advance(warm_up)
        share = None if None in (compiled_memory, as_used_memory) else compiled_memory / as_used_memory
        yield name + "its peak memory over that of diffusers' example", share
        speeds = _in_turns(run, work, contenders | {AS_USED: as_used}, steps, rounds)
        yield name + "over diffusers as its example runs it", _ratio(speeds, "compiled", AS_USED)
        del as_used
        tricks, _ = _begun(compiling, SAME_TRICKS, warm_up)
        speeds = _in_turns(run, work, contenders | {SAME_TRICKS: tricks}, steps, rounds)
        yield name + "over diffusers with bf16, channels_last, compiled", _ratio(speeds, "compiled", SAME_TRICKS)


def _begun(work: Work, contender: str, steps: int) -> tuple[Steps, int | None]:
    """A contender after its first steps, and the GPU memory that it took for them, in bytes."""
    gc.collect()
    if work.device.type != "cuda":
        steps_of = work.contender(contender)
        steps_of.advance(steps)
        return steps_of, None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(work.device)
    before = torch.cuda.memory_allocated(work.device)
    steps_of = work.contender(contender)
    steps_of.advance(max(steps, 2))
    wait_for(work.device)
    return steps_of, torch.cuda.max_memory_allocated(work.device) - before


def _in_turns(run: Run, work: Work, contenders: dict[str, Steps], steps: int, rounds: int) -> dict[str, list[float]]:
    """Images/s of each contender and FLOP/s of the device, in each round."""
    measures = {
        name: lambda contender=contender: images_per_second(contender, work, steps)
        for name, contender in contenders.items()
    }
    measures |= {
        name: lambda peak=peak: peak(run.device, torch.bfloat16)
        for name, peak in (("matrix", matmul_peak), ("convolution", conv_peak))
    }
    return take_turns(measures, rounds=rounds)


def _ratio(speeds: dict[str, list[float]], one: str, other: str) -> float:
    return median(a / b for a, b in zip(speeds[one], speeds[other], strict=True))


def _idle_share(contender: Steps, steps: int, device: torch.device) -> float | None:
    """Share of the time from the first kernel to the last in which the GPU runs none; None on a CPU."""
    if device.type != "cuda":
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        contender.advance(steps)
        wait_for(device)
    return idle_share(
        sorted(
            (event.time_range.start, event.time_range.end)
            for event in profiled.events() or []
            if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
        )
    )


def idle_share(ranges: list[tuple[float, float]]) -> float | None:
    """Share of the time between the first start and the last end that no range covers; ranges sorted by start."""
    if not ranges:
        return None
    covered, reached = 0.0, ranges[0][0]
    for start, end in ranges:
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return 1 - covered / (reached - ranges[0][0])


def sampling(run: Run) -> Found:
    """Drawing with the same network: by the sampler of params.yaml, without guidance."""
    few, many = (4, 8) if run.tiny else (256, 1024)
    params = run.params()
    recipe = replace(recipe_in(params.sample, "auto"), guidance=1.0, guidance_interval=(0.0, None))
    setting = setting_of(replace(recipe, steps=EVALUATIONS), EVALUATIONS)
    with _work(run, few) as work:
        draw = same_weights.drawer(work.unet, replace(params.runtime, sample_batch=many))
        draw(1, 0, setting)
        yield "one image, 10 evaluations", _seconds(run, lambda: draw(1, 1, setting))
        speeds = {}
        for n, name in ((few, "256 images"), (many, "1,024 images")):
            draw(n, 0, setting)
            speeds[n] = n / _seconds(run, lambda n=n: draw(n, 1, setting))
            yield f"{name}: images/s", speeds[n]
        yield "256 images over 1,024, images/s", speeds[few] / speeds[many]
        network = model_file.load(work.unet / "imported.safetensors", run.device).network
        flops = EVALUATIONS * _forward_flops(network, work.images.shape[1:], run.device)
        share = speeds[many] * flops / matmul_peak(run.device, torch.bfloat16)
        yield "1,024 images: share of the matrix peak", share
        del network
        long = setting_of(replace(recipe, steps=MANY_STEPS), MANY_STEPS)
        peaks = (
            [_peak_bytes(run, lambda each=each: draw(few, 0, each)) for each in (setting, long)] if not run.tiny else []
        )
        yield "peak memory, 100 steps over 10", None if not all(peaks) or not peaks else peaks[1] / peaks[0]


def _seconds(run: Run, draw: Callable[[], object]) -> float:
    wait_for(run.device)
    began = time.perf_counter()
    draw()
    wait_for(run.device)
    return time.perf_counter() - began


def _peak_bytes(run: Run, draw: Callable[[], object]) -> int | None:
    """The most GPU memory that is taken while drawing, with the weights; None on a CPU."""
    if run.device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(run.device)
    draw()
    return torch.cuda.max_memory_allocated(run.device)


@torch.inference_mode()
def _forward_flops(network: torch.nn.Module, shape: tuple[int, ...], device: torch.device) -> int:
    """FLOPs of convolutions and matrix products of one evaluation for one image [C,H,W]."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network(torch.zeros(1, *shape, device=device), torch.ones(1, device=device), None)
    return counter.get_total_flops()
