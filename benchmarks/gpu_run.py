"""What the parts of gpu.py have in common: the device, the size of a run, and its time."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from common import Images
from contenders.kept import ROOT

from ddpm.params import Params
from ddpm.params import load as load_params

Found = Iterator[tuple[str, float | None]]
"""Numbers by their names in gpu_goals.py; None where the device has no such number."""


@dataclass(frozen=True)
class Run:
    """One run of a part."""

    device: torch.device
    tiny: bool = False
    """Small networks and few steps: to see that the part runs."""
    data: Path | None = None
    """Images of part cifar10."""
    seconds: float = 750.0
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.began)

    def params(self) -> Params:
        """Return params.yaml for this device, with a tiny network in a tiny run."""
        return self.tiny_network(load_params(ROOT / "params.yaml"))

    def tiny_network(self, params: Params) -> Params:
        """Return the parameters for this device, with a tiny network in a tiny run."""
        params = replace(params, runtime=replace(params.runtime, device=self.device.type, progress=False))
        if not self.tiny:
            return params
        small = replace(params.network, width=8, multipliers=(1, 2), blocks=1, attention=(), head_channels=8)
        return replace(params, network=small, train=replace(params.train, batch_size=8))

    def random_images(self, n: int) -> Images:
        """Return n images of noise in ten classes, 3x32x32, or 3x16x16 in a tiny run: speed does not depend on them."""
        random, size = np.random.default_rng(0), 16 if self.tiny else 32
        images = random.integers(0, 256, (n, 3, size, size), dtype=np.uint8)
        labels = np.arange(n) % 10
        return Images("noise", images, labels, images[:64], labels[:64])


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
