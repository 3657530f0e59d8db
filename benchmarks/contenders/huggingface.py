"""diffusers: UNet2DModel and the training loop of its example `train_unconditional`, without its checkpoints."""

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from common import Images
from torch import Tensor, nn

from contenders import EMA, RAW, Budget, Draw, Setting, in_batches
from contenders.in_memory import batches, floats
from ddpm.compute.hardware import choose_device

if TYPE_CHECKING:
    from diffusers import UNet2DModel

LR, WARMUP_STEPS = 1e-4, 500
ADAM: dict[str, Any] = {"lr": LR, "betas": (0.95, 0.999), "weight_decay": 1e-6, "eps": 1e-8}
AVERAGE: dict[str, Any] = {"decay": 0.9999, "use_ema_warmup": True, "inv_gamma": 1.0, "power": 0.75}
"""The example's defaults."""
CHANNELS = (32, 64, 128, 128)
"""The example has (128, 128, 256, 256, 512, 512) for 64 pixels, which two cores train at a few images a second."""
UNPLANNED = 10**9
"""Steps of a training whose speed is not known yet."""


def _ddim(steps: int) -> Setting:
    return Setting(f"DDIM {steps}", steps, {"scheduler": "DDIMScheduler"})


def _dpm(steps: int) -> Setting:
    return Setting(f"DPM-Solver++ {steps}", steps, {"scheduler": "DPMSolverMultistepScheduler"})


class ExampleLoop:
    """The loop of diffusers' examples/unconditional_image_generation/train_unconditional.py, one step at a time.

    Its defaults: AdamW (0.95, 0.999), cosine learning rate, EMA at every step, gradient norm 1; the loss is read at
    every step for its progress bar. Images [N,C,H,W] are uint8, in memory, and N is at least the batch size.
    """

    def __init__(
        self,
        network: "UNet2DModel",
        images: np.ndarray,
        *,
        batch_size: int,
        device: torch.device,
        precision: str = "no",
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        from diffusers import DDPMScheduler
        from diffusers.training_utils import EMAModel

        self.accelerator = new_accelerator(device, precision)
        self.network: nn.Module = network
        self.noise_scheduler = DDPMScheduler(num_train_timesteps=1000)
        self.layout = layout
        optimizer = torch.optim.AdamW(network.parameters(), **ADAM)
        loader = batches(floats(images, low=-1, device=device), batch_size)
        self.model, self.optimizer, loader = self.accelerator.prepare(network, optimizer, loader)
        self.batches = itertools.chain.from_iterable(itertools.repeat(loader))
        self.average = EMAModel(network.parameters(), **AVERAGE)
        self.average.to(device)
        self.done = 0
        """Steps."""
        self.plan(UNPLANNED)

    def plan(self, steps: int) -> None:
        """The learning rate falls to zero over so many steps in all, of which `done` are over."""
        from diffusers.optimization import get_cosine_schedule_with_warmup

        self.rate = get_cosine_schedule_with_warmup(
            self.optimizer.optimizer, WARMUP_STEPS, steps, last_epoch=self.done - 1
        )

    def step(self) -> float:
        """One optimizer step; its loss."""
        self.model.train()
        clean = next(self.batches).to(memory_format=self.layout)
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, 1000, (len(clean),), device=clean.device)
        noisy = self.noise_scheduler.add_noise(clean, noise, timesteps)
        loss = F.mse_loss(self.model(noisy, timesteps).sample.float(), noise.float())
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.rate.step()
        self.optimizer.zero_grad()
        self.average.step(self.network.parameters())
        self.done += 1
        return loss.detach().item()


def new_accelerator(device: torch.device, precision: str) -> Any:
    """An Accelerator of its own: accelerate holds the first one's precision for the whole process.

    What was prepared before keeps the precision it was prepared with.
    """
    if device.type == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "1"
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=precision)


@dataclass
class Diffusers:
    batch_size: int = 16
    """The example's default, which makes the most steps in a given time."""
    channels: tuple[int, ...] = CHANNELS
    batch: int = 256

    name = "diffusers"
    weights = None
    default = _dpm(20)  # after a short training far better than DDIM with 50 steps (benchmarks/sampling.py)
    ladder = (_dpm(5), _dpm(10), _dpm(20), _ddim(50))

    def choices(self) -> str:
        return (
            f"UNet2DModel with two layers a block, attention at the last resolution but one and channels "
            f"{self.channels} at 32, 16, 8 and 4 pixels, as many colour channels as the images have; linear schedule "
            f"of 1000 steps, target eps, AdamW at {LR:g} with {WARMUP_STEPS} warm-up steps and a cosine over the steps "
            f"that fit, batch {self.batch_size}, gradients clipped at 1, the example's EMA, float32, no mirroring. "
            "Images are in memory, and the example's checkpoints and sample pictures are left out, to its advantage."
        )

    def network(self, channels: int, size: int) -> "UNet2DModel":
        """The example's structure, down to 4 pixels."""
        from diffusers import UNet2DModel

        levels = min(len(self.channels), max(2, (size // 4).bit_length()))
        attends = levels - 2
        return UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=2,
            block_out_channels=self.channels[:levels],
            down_block_types=["AttnDownBlock2D" if k == attends else "DownBlock2D" for k in range(levels)],
            up_block_types=["AttnUpBlock2D" if levels - 1 - k == attends else "UpBlock2D" for k in range(levels)],
        )

    def train(self, images: Images, budget: Budget, folder: Path) -> list[str]:
        torch.manual_seed(0)
        network = self.network(*images.train.shape[1:3])
        loop = ExampleLoop(network, images.train, batch_size=self.batch_size, device=choose_device("auto"))
        while True:
            loop.step()
            budget.note(budget.done + self.batch_size)
            total = budget.plan()
            if total is not None:
                loop.plan(max(total // self.batch_size, loop.done))
            if budget.over:
                break
        budget.end()
        network.save_pretrained(folder / RAW)
        loop.average.copy_to(network.parameters())
        network.save_pretrained(folder / EMA)
        return [RAW, EMA]

    def drawer(self, folder: Path, weights: str) -> Draw:
        import diffusers

        network = diffusers.UNet2DModel.from_pretrained(folder / weights).to(choose_device("auto"))

        def draw(n: int, seed: int, setting: Setting) -> Tensor:
            trained = diffusers.DDPMScheduler(num_train_timesteps=1000)
            scheduler = getattr(diffusers, setting.told["scheduler"]).from_config(trained.config)
            pipeline = diffusers.DDPMPipeline(unet=network, scheduler=scheduler)
            pipeline.set_progress_bar_config(disable=True)
            random = torch.Generator().manual_seed(seed)

            def some(_: int, size: int) -> Tensor:
                made = pipeline(
                    batch_size=size, generator=random, num_inference_steps=setting.evaluations, output_type="np"
                ).images
                return torch.from_numpy(np.rint(made * 255).astype(np.uint8)).permute(0, 3, 1, 2)

            return in_batches(n, self.batch, some)

        return draw
