"""One network that diffusers describes, trained by each project's own loop, a few optimizer steps at a time."""

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from contenders.huggingface import ExampleLoop, new_accelerator
from contenders.in_memory import batches, floats
from contenders.lucidrains import make_trainer, without_progress_bar, write_png
from ddpm.compute.hardware import autocast, choose_precision
from ddpm.diffusion.processes import make_process
from ddpm.exchange.unet_exchange import from_diffusers
from ddpm.networks.unet import UNet
from ddpm.params import load as load_params
from ddpm.training.batches import Batches
from ddpm.training.curves import Meter
from ddpm.training.loop import new_state, train
from ddpm.training.methods.diffusion import Diffusion
from ddpm.training.times import make_times

PARAMS = Path(__file__).parents[2] / "params.yaml"


class Steps(Protocol):
    """A training under way."""

    network: nn.Module

    def advance(self, steps: int) -> None:
        """So many optimizer steps, with all that its users pay for."""

    def loss(self, images: Tensor) -> Tensor:
        """Of one forward pass over images in [-1, 1], never compiled, for counting its operations."""


class OurSteps:
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
        self.meter = Meter(device)
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
            method=Diffusion(
                process,
                make_times(process, settings, memory=state.times, device=device),
                replace(params.objective, target="eps", weight="simple"),
            ),
            settings=settings,
            device=device,
            precision=self.precision,
        )

    def advance(self, steps: int) -> None:
        for _ in range(steps):
            self.meter.add(next(self.steps))

    def loss(self, images: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            answer = self.network.forward(images, torch.ones(len(images), device=images.device), None)
        return answer.float().square().mean()


class DiffusersSteps:
    """UNet2DModel in the loop of diffusers' example. `unet` is a folder that one was saved to.

    `tricks` adds what this project does and the example leaves out: channels_last and bf16 autocast.
    """

    def __init__(
        self,
        unet: Path,
        images: np.ndarray,
        *,
        batch_size: int,
        device: torch.device,
        tricks: bool = False,
        compiled: bool = False,
    ) -> None:
        from diffusers import UNet2DModel

        layout = torch.channels_last if tricks else torch.contiguous_format
        self.network: nn.Module = UNet2DModel.from_pretrained(unet).to(memory_format=layout)
        precision = "bf16" if tricks else "no"
        self.loop = ExampleLoop(
            self.network, images, batch_size=batch_size, device=device, precision=precision, layout=layout
        )
        if compiled:
            self.network.compile()

    def advance(self, steps: int) -> None:
        for _ in range(steps):
            self.loop.step()

    def loss(self, images: Tensor) -> Tensor:
        t = torch.zeros(len(images), dtype=torch.long, device=images.device)
        return self.network.forward(images, t).sample.square().mean()


class LucidrainsSteps:
    """denoising-diffusion-pytorch's Unet and GaussianDiffusion in its own Trainer, whose `train` runs unchanged.

    `dim` is the even number with which the number of parameters comes nearest to `parameters`.
    Its DataLoader over a folder is replaced by one over images in memory.
    """

    def __init__(
        self,
        config: dict[str, Any],
        images: np.ndarray,
        *,
        batch_size: int,
        device: torch.device,
        parameters: int,
    ) -> None:
        accelerator = new_accelerator(device, "no")
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from denoising_diffusion_pytorch.denoising_diffusion_pytorch import cycle

        widths, channels = config["block_out_channels"], config["in_channels"]
        shape = {"dim_mults": tuple(width // widths[0] for width in widths), "channels": channels}
        with torch.device("meta"):
            counts = {dim: count(Unet(dim=dim, **shape)) for dim in range(8, 2 * max(widths), 2)}
        dim = min(counts, key=lambda dim: abs(counts[dim] - parameters))
        self.network: nn.Module = GaussianDiffusion(Unet(dim=dim, **shape), image_size=config["sample_size"])
        with tempfile.TemporaryDirectory() as folder:
            pictures = Path(folder) / "pictures"
            write_png(np.zeros((100, 1, 8, 8), np.uint8), pictures)  # so many are wanted before it starts
            self.trainer = make_trainer(self.network, pictures, batch_size=batch_size)
        self.trainer.train_num_steps = 0
        self.trainer.dl = cycle(accelerator.prepare(batches(floats(images, low=0, device=device), batch_size)))

    def advance(self, steps: int) -> None:
        self.trainer.train_num_steps += steps
        with contextlib.redirect_stdout(io.StringIO()), without_progress_bar():
            self.trainer.train()

    def loss(self, images: Tensor) -> Tensor:
        return self.network(images)


def count(network: nn.Module) -> int:
    """Trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters())
