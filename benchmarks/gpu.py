"""One part of what `make gpu` measures on a GPU, in a process of its own; gpu_session.py runs all of them.

    python benchmarks/gpu.py training-512 --output part.json
    python benchmarks/gpu.py sampling --device cpu --tiny      # seconds, to see that it runs

gpu_goals.py has the numbers of each part, with their targets. Each number is written as soon as it is measured, so that
a part that is stopped leaves those before.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median

import gpu_cifar
import gpu_network
import torch
from common import Images, load_images
from contenders.kept import ROOT
from contenders.ours import Ours
from gpu_goals import PARTS as GOALS
from gpu_run import Found, Run, wait_for
from peaks import conv_peak, matmul_peak

from ddpm import overlay
from ddpm.data.reading.dataset import Split
from ddpm.errors import UserError
from ddpm.files import write_json
from ddpm.measuring.features.extractor import describe
from ddpm.measuring.features.extractor_training import train_extractor
from ddpm.params import Params
from ddpm.training import checkpoint_folder
from ddpm.training.session import Training


def peaks(run: Run) -> Found:
    """The speed of one large operation: the yardstick of everything else."""
    device = run.device
    product, convolution = matmul_peak(device, torch.bfloat16), conv_peak(device, torch.bfloat16)
    yield "matrix product, bf16", product / 1e12
    yield "convolution, bf16", convolution / 1e12
    yield "matrix product, bf16 over float32", product / matmul_peak(device, torch.float32)
    yield "convolution over matrix product, bf16", convolution / product


def features(run: Run) -> Found:
    """The extractor of FID: its training, and features of images that are in memory."""
    images = run.random_images(256 if run.tiny else 50_000)
    assert images.train_labels is not None
    split, settings = Split(images.train, images.train_labels), run.params().features
    if run.tiny:
        settings = replace(settings, images=128, batch_size=32, dim=16)
    wait_for(run.device)
    began = time.perf_counter()
    extractor = train_extractor(
        split, split, kind="classifier", classes=10, settings=settings, device=run.device, progress=False
    )
    wait_for(run.device)
    yield "training the extractor", time.perf_counter() - began
    describe(extractor, images.train[:256], device=run.device, progress=False, what="warming up")
    began = time.perf_counter()
    describe(extractor, images.train, device=run.device, progress=False, what="images")
    yield "features", len(images.train) / (time.perf_counter() - began)


def checkpoints(run: Run) -> Found:
    """A checkpoint of a network of about 36 million parameters, as it is saved while the training goes on."""
    params = run.params()
    if not run.tiny:
        network = replace(params.network, width=128, multipliers=(1, 2, 2, 2), attention=(16,), head_channels=64)
        params = replace(params, network=network)
    steps = 2 if run.tiny else 10
    with tempfile.TemporaryDirectory() as folder:
        training = Ours(params).begin(run.random_images(1024), Path(folder))
        running = training.steps()
        _stretch(training, running, steps, saving=True)  # allocates its buffers
        _finish(training)
        pauses = []
        for _ in range(3):
            without = _stretch(training, running, steps, saving=False)
            pauses.append(_stretch(training, running, steps, saving=True) - without)
            _finish(training)
        began = time.perf_counter()
        training.save()
        _finish(training)
        written = time.perf_counter() - began
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        yield "size of a checkpoint", size / len(checkpoint_folder.checkpoints(training.folder)) / 1e9
        yield "training stands still", max(0.0, median(pauses))
        yield "until it is on the disk", written


def _stretch(training: Training, running: Iterator[object], steps: int, *, saving: bool) -> float:
    """Seconds of 2 `steps` steps, with a checkpoint in the middle or without."""
    wait_for(training.device)
    began = time.perf_counter()
    for step in range(2 * steps):
        if saving and step == steps:
            training.save()
        next(running)
    wait_for(training.device)
    return time.perf_counter() - began


def _finish(training: Training) -> None:
    """Wait until the last checkpoint that was begun is on the disk."""
    training.settle()


def defaults(run: Run) -> Found:
    """The two trainings that a user meets first: params.yaml with the digits, and the recipe for colour images."""
    digits = load_images(None, size=8)
    colour = overlay.load(ROOT / "params.yaml", ROOT / "recipes" / "colour-32.yaml")
    for name, params, images in (
        ("8x8, params.yaml", run.params(), digits),
        ("32x32, recipes/colour-32.yaml", run.tiny_network(colour), run.random_images(1024 if run.tiny else 50_000)),
    ):
        speed = _images_per_second(run, params, images)
        yield f"{name}: images/s", speed
        yield f"{name}: the training", params.train.images / speed


def _images_per_second(run: Run, params: Params, images: Images) -> float:
    least_seconds = 0.1 if run.tiny else 5.0
    with tempfile.TemporaryDirectory() as folder:
        training = Ours(params).begin(images, Path(folder))
        running = training.steps()
        for _ in range(2 if run.tiny else 20):
            next(running)
        wait_for(run.device)
        began, before = time.perf_counter(), training.state.images_seen
        while time.perf_counter() - began < least_seconds:
            for _ in range(1 if run.tiny else 20):
                next(running)
            wait_for(run.device)
        return (training.state.images_seen - before) / (time.perf_counter() - began)


PARTS: dict[str, Callable[[Run], Found]] = {
    "peaks": peaks,
    "training-128": lambda run: gpu_network.training(run, 128),
    "training-512": lambda run: gpu_network.training(run, 512),
    "sampling": gpu_network.sampling,
    "features": features,
    "checkpoint": checkpoints,
    "defaults": defaults,
    "cifar10": gpu_cifar.fid_by_time,
}


def measure(part: str, run: Run, output: Path | None = None) -> dict[str, float | None]:
    """Measure one part; write its numbers to `output` after each. None: this device has no such number.

    Raises KeyError for a number without a goal.
    """
    found: dict[str, float | None] = {}
    # A tiny run says whether the code runs; compiling would take it minutes.
    with torch.compiler.set_stance("force_eager") if run.tiny else nullcontext():
        for name, value in PARTS[part](run):
            goal = GOALS[part][name]
            found[name] = value
            print(f"{name}: {value} {goal.unit}", flush=True)
            if output is not None:
                write_json(output, found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks and few steps: to see that it runs")
    parser.add_argument(
        "--data", type=Path, help="part cifar10: a prepared folder, or a zip with train/CLASS/ and test/CLASS/"
    )
    parser.add_argument("--seconds", type=float, default=750.0, help="time for this part")
    parser.add_argument("--output", type=Path, help="JSON")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch finds no CUDA device on this machine; use --device cpu --tiny to see that a part runs")
    run = Run(torch.device(args.device), tiny=args.tiny, data=args.data, seconds=args.seconds)
    measure(args.part, run, args.output)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
