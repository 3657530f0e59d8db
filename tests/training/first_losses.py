"""The losses of the first 20 steps of small trainings that together cover all computations of a step.

`python tests/training/first_losses.py > tests/training/first_losses.json` pins them anew, after a change that is
meant to change numbers.
"""

import dataclasses
import json
import sys
from typing import Any

import tiny_training as tiny
import torch

from ddpm.training import session

STEPS = 20
OBJECTIVES: dict[str, dict[str, Any]] = {
    "v, min-SNR": {"target": "v", "weight": "min_snr"},
    "eps, learned variance, importance": {
        "target": "eps",
        "weight": "simple",
        "learned_variance": True,
    },
    "edm": {"target": "edm", "weight": "edm"},
    "v, bounded, Muon": {"target": "v", "weight": "min_snr", "bounded": True},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "eps, learned variance, importance": {"time_sampling": "importance"},
    "edm": {"time_sampling": "log_normal"},
    "v, bounded, Muon": {"optimizer": "muon"},
}
"""Differences from the settings of `tiny_training`."""
SCHEDULES: dict[str, dict[str, Any]] = {
    "v, min-SNR": {"name": "cosine", "T": 1000},
    "eps, learned variance, importance": {"name": "linear", "T": 10},
    "edm": {"name": "variance_exploding", "T": 1000, "time": "continuous"},
    "v, bounded, Muon": {"name": "cosine", "T": 1000},
}


def losses(name: str) -> list[float]:
    """Return the losses of the first steps, in float32 on the CPU."""
    spec = dataclasses.replace(
        tiny.SPEC,
        schedule=dataclasses.replace(tiny.SPEC.schedule, **SCHEDULES[name]),
        objective=dataclasses.replace(tiny.SPEC.objective, **OBJECTIVES[name]),
    )
    torch.manual_seed(0)
    training = session.begin(
        spec,
        tiny.IMAGES,
        tiny.LABELS,
        data_hash="made up",
        code_hash="of one run",
        settings=dataclasses.replace(tiny.SETTINGS, **SETTINGS.get(name, {})),
        runtime=dataclasses.replace(tiny.PARAMS.runtime, resume="never"),
        device=torch.device("cpu"),
        precision="float32",
        state_folder=tiny.NOWHERE,
    )
    steps = training.steps()
    return [next(steps).loss for _ in range(STEPS)]


if __name__ == "__main__":
    json.dump({name: losses(name) for name in OBJECTIVES}, sys.stdout, indent=1)
    print()
