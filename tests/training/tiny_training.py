"""A training of a tiny network on random images, in a separate process that tests can stop in every way.

`python tests/training/tiny_training.py FOLDER` trains deterministically to the end and prints the sha256 of
FOLDER/model.safetensors.
"""

import dataclasses
import hashlib
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddpm import model_file
from ddpm.compute import hardware
from ddpm.diffusion.settings import Objective, Schedule
from ddpm.errors import UserError
from ddpm.model_spec import Spec
from ddpm.networks.settings import CONVENTION, Network
from ddpm.params import load as load_params
from ddpm.tracker import NullTracker, Tracker
from ddpm.training import session
from ddpm.training.run import run_training
from ddpm.training.settings import Augment, Lora, Train

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
IMAGES = np.random.default_rng(0).integers(0, 256, (37, 1, 8, 8), dtype=np.uint8)
LABELS = np.arange(37) % 3
SPEC = Spec(
    channels=1,
    size=8,
    classes=("a", "b", "c"),
    unconditional=True,
    schedule=Schedule(
        name="cosine", T=1000, time="discrete", shift=1.0, zero_terminal_snr=False, sigma_min=0.002, sigma_max=80.0
    ),
    objective=Objective(
        target="v",
        weight="min_snr",
        min_snr_gamma=5.0,
        p2_gamma=1.0,
        sigma_data=0.5,
        learned_variance=False,
        vlb_weight=0.001,
        bounded=False,
    ),
    network=Network(
        patch=1,
        width=8,
        multipliers=(1, 2),
        blocks=1,
        attention=(4,),
        head_channels=8,
        dropout=0.1,
        embedding="scale_shift",
        resample="residual",
        groups=None,
    ),
    convention=CONVENTION,
)
SETTINGS = Train(
    images=16 * 80,
    minutes=None,
    max_hours=None,
    batch_size=16,
    optimizer="adamw",
    lr=0.002,
    warmup_images=64,
    decay_images=320,
    weight_decay=0.0,
    beta2=0.99,
    grad_clip=1.0,
    time_sampling="uniform",
    log_normal=(-1.2, 1.2),
    label_dropout=0.2,
    flip=True,
    augment=Augment(probability=0.0, transforms=("rotate",)),
    shuffle_shards=16,
    ema_halflife_images=100,
    max_nonfinite_steps=10,
    seed=0,
    start=None,
    lora=Lora(rank=0, alpha=8.0),
)
NOWHERE = Path("no-checkpoints")
"""The state folder of trainings that save nothing; it is never created."""
EVERY = {"log_every_images": 320, "grid_every_images": 10_000}


def begin(
    folder: Path,
    *,
    settings: Train = SETTINGS,
    spec: Spec = SPEC,
    device: str = "cpu",
    precision: hardware.Precision = "float32",
    labels: np.ndarray | None = LABELS,
    **changes: Any,
) -> session.Training:
    """Return a training from the last checkpoint in `folder`, if there is one; `changes` are settings of `runtime`."""
    settled: dict[str, Any] = {"checkpoint_seconds": 0.05, "progress": False, "deterministic": True}
    runtime = dataclasses.replace(PARAMS.runtime, **settled | changes)
    if device == "cuda":
        hardware.set_determinism(runtime.deterministic)
    return session.begin(
        spec,
        IMAGES,
        labels,
        data_hash="made up",
        code_hash="made up",
        settings=settings,
        runtime=runtime,
        device=torch.device(device),
        precision=precision,
        state_folder=folder,
    )


def run(training: session.Training, tracker: Tracker | None = None) -> list[dict[str, float | None]]:
    """Train to the end."""
    picture = Image.new("L", (8, 8))
    return run_training(training, tracker=tracker or NullTracker(), **EVERY, picture=lambda: picture)


def finish(folder: Path, *, settings: Train = SETTINGS, device: str = "cpu") -> str:
    """Train to the end, write model.safetensors and return its sha256."""
    training = begin(folder, settings=settings, device=device)
    began = time.monotonic()
    run(training)
    (folder / "seconds").write_text(str(time.monotonic() - began))
    network = training.state.ema.network
    sha256 = model_file.save(folder / "model.safetensors", network=network, spec=SPEC, lineage={})
    training.forget()
    return sha256


def as_process(folder: Path, settings: Train = SETTINGS, device: str = "cpu", memory: int | None = None) -> None:
    """Run `finish` with its output in `folder`/log; SIGUSR1 makes memory run out and SIGUSR2 fills the disk.

    `memory`: bytes that the process may take beyond what it has at the start.
    """
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.signal(signal.SIGUSR1, lambda *_: torch.empty(1 << 60, dtype=torch.uint8))
    signal.signal(signal.SIGUSR2, lambda *_: fill_disk())
    if memory is not None:
        have = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (have + memory, resource.RLIM_INFINITY))
    try:
        finish(folder, settings=settings, device=device)
    except UserError as error:
        print(f"error: {error}", flush=True)
        raise SystemExit(1) from None


def fill_disk() -> None:
    """Limit files of this process to 20 kB, so that a checkpoint cannot be written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


def empty_disk() -> None:
    """Remove the limit on files."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    hardware.set_determinism(True)
    print(finish(Path(sys.argv[1])))
