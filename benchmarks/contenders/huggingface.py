"""diffusers: UNet2DModel and the training loop of its example `train_unconditional`, without its checkpoints."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from common import Images
from torch import Tensor

from contenders import EMA, RAW, Budget, Draw, Setting, in_batches

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
        from accelerate import Accelerator
        from diffusers import DDPMScheduler
        from diffusers.optimization import get_cosine_schedule_with_warmup
        from diffusers.training_utils import EMAModel
        from torch.utils.data import DataLoader, TensorDataset

        torch.manual_seed(0)
        accelerator = Accelerator()
        pixels = torch.from_numpy(np.array(images.train)).to(torch.float32) / 127.5 - 1
        model = self.network(*images.train.shape[1:3])
        optimizer = torch.optim.AdamW(model.parameters(), **ADAM)
        loader = DataLoader(TensorDataset(pixels), batch_size=self.batch_size, shuffle=True)
        noise_scheduler = DDPMScheduler(num_train_timesteps=1000)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        average = EMAModel(model.parameters(), **AVERAGE)
        average.to(accelerator.device)
        rate = get_cosine_schedule_with_warmup(optimizer.optimizer, WARMUP_STEPS, UNPLANNED)

        model.train()
        for step, (clean,) in enumerate(itertools.chain.from_iterable(itertools.repeat(loader)), start=1):
            noise = torch.randn_like(clean)
            timesteps = torch.randint(0, 1000, (len(clean),), device=clean.device)
            noisy = noise_scheduler.add_noise(clean, noise, timesteps)
            loss = F.mse_loss(model(noisy, timesteps).sample, noise)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            average.step(model.parameters())
            budget.note(budget.done + len(clean))
            total = budget.plan()
            if total is not None:
                steps = max(total // self.batch_size, step)
                rate = get_cosine_schedule_with_warmup(optimizer.optimizer, WARMUP_STEPS, steps, last_epoch=step - 1)
            if budget.over:
                break
        budget.end()
        model = accelerator.unwrap_model(model)
        model.save_pretrained(folder / RAW)
        average.copy_to(model.parameters())
        model.save_pretrained(folder / EMA)
        return [RAW, EMA]

    def drawer(self, folder: Path, weights: str) -> Draw:
        import diffusers

        from ddpm.compute.hardware import choose_device

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
