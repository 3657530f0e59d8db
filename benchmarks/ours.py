"""This project's training of a network that diffusers describes, a few optimizer steps at a time."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ddpm.compute.hardware import autocast, choose_precision
from ddpm.diffusion.processes import make_process
from ddpm.exchange.unet_exchange import from_diffusers
from ddpm.networks.unet import UNet
from ddpm.params import load as load_params
from ddpm.training.batches import Batches
from ddpm.training.curves import Meter
from ddpm.training.loop import new_state, train
from ddpm.training.times import make_times

PARAMS = Path(__file__).parents[1] / "params.yaml"


class Ours:
    """`ddpm.training.loop` with what the example of diffusers computes: linear schedule, 1000 steps, target eps.

    The rest is what params.yaml says: AdamW, the average and the clipping of the gradient. The values of every step go
    into the means that a training logs. `unet` is a folder that a UNet2DModel was saved to.
    """

    def __init__(
        self,
        unet: Path,
        images: np.ndarray,
        *,
        batch_size: int,
        device: torch.device,
        compiled: bool = False,
    ) -> None:
        params = load_params(PARAMS)
        architecture, weights = from_diffusers(
            json.loads((unet / "config.json").read_text()), load_file(unet / "diffusion_pytorch_model.safetensors")
        )
        self.network: nn.Module = UNet(**architecture)
        self.network.load_state_dict(weights)
        self.precision = choose_precision("auto", device, images.shape[-1])
        self.device = device
        self.meter = Meter()
        settings = replace(
            params.train, images=10**12, batch_size=batch_size, lr=1e-4, flip=False, time_sampling="uniform"
        )
        process = make_process(replace(params.schedule, name="linear", T=1000, time="discrete"))
        state = new_state(self.network.to(device), settings=settings)
        if compiled:
            self.network.compile()
        self.steps: Iterator[Any] = train(
            state,
            Batches(images, None, batch_size=batch_size, seed=0, flip=False, device=device),
            process=process,
            times=make_times(process, settings, memory=state.times),
            objective=replace(params.objective, target="eps", weight="simple"),
            settings=settings,
            device=device,
            precision=self.precision,
        )

    def advance(self, steps: int) -> None:
        for _ in range(steps):
            self.meter.add(next(self.steps))

    def loss(self, images: Tensor) -> Tensor:
        """Of a forward pass over images in [-1, 1], never compiled, for counting its operations."""
        with autocast(self.device, self.precision):
            answer = self.network.forward(images, torch.ones(len(images), device=images.device), None)
        return answer.float().square().mean()
