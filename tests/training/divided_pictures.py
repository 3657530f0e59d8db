"""A training of degraded pictures in several processes, see test_training_of_pictures."""

import dataclasses
import json
from pathlib import Path

import tiny_training as tiny

from ddpm.compute.processes import joined, rank, together
from ddpm.degrading.settings import ImageCondition

SPEC = dataclasses.replace(
    tiny.SPEC,
    classes=(),
    network=dataclasses.replace(tiny.SPEC.network, dropout=0.0),
    image=ImageCondition(
        degradations=("super-resolution", "inpaint", "denoise"), factor=2, hole=(0.3, 0.6), noise=(0.0, 40.0)
    ),
)
SHORT = dataclasses.replace(tiny.SETTINGS, images=16 * 12, warmup_images=32, decay_images=64)


def numbers() -> list[float]:
    """Return the loss of each step, and last the sum of the weights."""
    training = tiny.begin(tiny.NOWHERE, settings=SHORT, spec=SPEC, labels=None)
    losses = [float(step.loss) for step in training.steps()]
    return [*losses, sum(float(p.detach().double().abs().sum()) for p in training.state.ema.network.parameters())]


def in_processes(folder: Path) -> None:
    with joined(tiny.PARAMS.runtime):
        found = numbers()
        together()
    (folder / f"numbers-{rank()}.json").write_text(json.dumps(found))
