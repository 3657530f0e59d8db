"""A training of a tiny model of captions on random images, alone, in two processes, or killed in the middle."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tiny_training as tiny
import torch
from captioned import CAPTIONS

from ddpm import model_file
from ddpm.compute.processes import joined, rank, together
from ddpm.model_spec import Spec
from ddpm.networks.settings import Text
from ddpm.text import conditions
from ddpm.text.tokenizer import learn
from ddpm.training import session

IMAGES = np.random.default_rng(0).integers(0, 256, (37, 1, 8, 8), dtype=np.uint8)
TEXTS = [None if k % 9 == 0 else CAPTIONS[k % 4] for k in range(37)]
TEXT = Text(vocabulary=300, length=16, width=16, layers=1, head_channels=8, examples=CAPTIONS)
SPEC = replace(tiny.SPEC, classes=(), text=TEXT, tokenizer=learn(CAPTIONS, size=300))
UNDROPPED = replace(SPEC, network=replace(SPEC.network, dropout=0.0))
"""For divided trainings: masks of dropout depend on the division."""
SHORT = replace(tiny.SETTINGS, images=16 * 12, warmup_images=32, decay_images=64)
KILLED_AT = 16 * 7


def begin(
    folder: Path, *, spec: Spec = SPEC, device_batch: int | None = None, parallel: str = "ddp"
) -> session.Training:
    options: dict[str, Any] = {"progress": False, "deterministic": True, "checkpoint_seconds": 0.001}
    return session.begin(
        spec,
        IMAGES,
        conditions.of_images(spec, None, lambda: TEXTS),
        data_hash="made up",
        code_hash="made up",
        settings=SHORT,
        runtime=replace(tiny.PARAMS.runtime, device_batch=device_batch, parallel=parallel, **options),
        device=torch.device("cpu"),
        precision="float32",
        state_folder=folder,
    )


def finished(training: session.Training) -> dict[str, torch.Tensor]:
    for _ in training.steps():
        pass
    return {name: tensor.clone() for name, tensor in training.average().state_dict().items()}


def finish(folder: Path) -> None:
    """Train to the end as the stage does, and write `folder`/model.safetensors."""
    training = begin(folder)
    tiny.run(training)
    model_file.save(folder / "model.safetensors", network=training.average(), spec=SPEC, lineage={})


def die(folder: Path) -> None:
    """Train, with a checkpoint after each step; SIGKILL comes in the middle."""
    training = begin(folder)
    step = training.state.ema.update

    def step_or_die(*args: object, images_seen: int, **options: object) -> None:
        if images_seen == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        step(*args, images_seen=images_seen, **options)  # type: ignore[arg-type]

    training.state.ema.update = step_or_die  # type: ignore[method-assign]
    tiny.run(training)


def numbers(parallel: str = "ddp", device_batch: int | None = None) -> list[float]:
    """Return the losses, and last the sum of the absolute weights of the text encoder's table."""
    training = begin(tiny.NOWHERE, spec=UNDROPPED, device_batch=device_batch, parallel=parallel)
    losses = [float(step.loss) for step in training.steps()]
    return [*losses, float(training.average().get_parameter("text.token.weight").detach().double().abs().sum())]


DIVISIONS: dict[str, tuple[str, int | None]] = {"ddp": ("ddp", None), "fsdp, in parts": ("fsdp", 5)}


def in_processes(folder: Path) -> None:
    with joined(tiny.PARAMS.runtime):
        found = {name: numbers(*division) for name, division in DIVISIONS.items()}
        together()
    (folder / f"numbers-{rank()}.json").write_text(json.dumps(found))
