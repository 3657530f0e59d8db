"""The peers' own training loops over images in memory, a few optimizer steps at a time.

Both get their images as one tensor, already on the device and in the peer's range, gathered batch by batch: neither
pays for decoding files, as this project's training doesn't.
"""

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class InMemory(Dataset[Tensor]):
    """Images in one tensor, from which a DataLoader takes a whole batch at once."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.images[indices]


def loader(images: Tensor, batch_size: int) -> DataLoader[Tensor]:
    """Shuffled, without worker processes: there is nothing to decode."""
    return DataLoader(InMemory(images), batch_size, shuffle=True, drop_last=True, collate_fn=lambda batch: batch)


def floats(images: np.ndarray, *, low: float, device: torch.device) -> Tensor:
    """uint8 -> float32 in [low, 1], on the device."""
    return torch.from_numpy(np.array(images)).to(device).to(torch.float32) / 255 * (1 - low) + low


class Diffusers:
    """UNet2DModel in the loop of diffusers' examples/unconditional_image_generation/train_unconditional.py.

    Its defaults: AdamW (0.95, 0.999), cosine learning rate, EMA at every step, gradient norm 1; the loss is read at
    every step for its progress bar.
    `unet` is a folder that a UNet2DModel was saved to.
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
        steps: int = 100_000,
    ) -> None:
        accelerator = _accelerator(device, "bf16" if tricks else "no")
        from diffusers import DDPMScheduler, UNet2DModel
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import EMAModel

        self.layout = torch.channels_last if tricks else torch.contiguous_format
        self.network: nn.Module = UNet2DModel.from_pretrained(unet).to(memory_format=self.layout)
        self.noise = DDPMScheduler(num_train_timesteps=1000)
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
        )
        schedule = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=steps)
        batches = loader(floats(images, low=-1, device=device), batch_size)
        prepared = accelerator.prepare(self.network, optimizer, batches, schedule)
        self.model, self.optimizer, self.batches, self.schedule = prepared
        self.ema = EMAModel(
            self.network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4, foreach=False
        )
        self.ema.to(device)
        self.accelerator = accelerator
        if compiled:
            self.network.compile()
        self.losses = self._train()

    def advance(self, steps: int) -> None:
        for _ in range(steps):
            next(self.losses)

    def _train(self) -> Iterator[float]:
        """The loss of one step after the other, without end."""
        accelerator, model = self.accelerator, self.model
        model.train()
        while True:
            for batch in self.batches:
                clean = batch.to(memory_format=self.layout)
                noise = torch.randn_like(clean)
                t = torch.randint(0, self.noise.config.num_train_timesteps, (len(clean),), device=clean.device)
                noisy = self.noise.add_noise(clean, noise, t)
                with accelerator.accumulate(model):
                    loss = F.mse_loss(model(noisy, t).sample.float(), noise.float())
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    self.optimizer.step()
                    self.schedule.step()
                    self.optimizer.zero_grad()
                self.ema.step(self.network.parameters())
                yield loss.detach().item()

    def loss(self, images: Tensor) -> Tensor:
        """Of a forward pass over images in [-1, 1], never compiled, for counting its operations."""
        t = torch.zeros(len(images), dtype=torch.long, device=images.device)
        return self.network.forward(images, t).sample.square().mean()


class Lucidrains:
    """denoising-diffusion-pytorch's Unet and GaussianDiffusion in its own Trainer, whose `train` runs unchanged.

    `dim` is the even number with which the number of parameters comes nearest to `parameters`.
    Its DataLoader over a folder is replaced by one over images in memory; its samples and its FID are left out.
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
        accelerator = _accelerator(device, "no")
        from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet
        from denoising_diffusion_pytorch.denoising_diffusion_pytorch import cycle

        widths, channels = config["block_out_channels"], config["in_channels"]
        shape = {"dim_mults": tuple(width // widths[0] for width in widths), "channels": channels}
        with torch.device("meta"):
            counts = {dim: count(Unet(dim=dim, **shape)) for dim in range(8, 2 * max(widths), 2)}
        dim = min(counts, key=lambda dim: abs(counts[dim] - parameters))
        self.network: nn.Module = GaussianDiffusion(Unet(dim=dim, **shape), image_size=config["sample_size"])
        with tempfile.TemporaryDirectory() as folder:
            _write_any_images(Path(folder))
            self.trainer = Trainer(
                self.network,
                folder,
                train_batch_size=batch_size,
                train_num_steps=0,
                save_and_sample_every=10**9,
                results_folder=f"{folder}/results",
                calculate_fid=False,
            )
        batches = loader(floats(images, low=0, device=device), batch_size)
        self.trainer.dl = cycle(accelerator.prepare(batches))

    def advance(self, steps: int) -> None:
        self.trainer.train_num_steps += steps
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # its progress bar
            self.trainer.train()

    def loss(self, images: Tensor) -> Tensor:
        """Of a forward pass over images, for counting its operations."""
        return self.network(images)


def count(network: nn.Module) -> int:
    """Trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters())


def _accelerator(device: torch.device, precision: str) -> Any:
    """An Accelerator of its own: accelerate holds the first one's precision for the whole process.

    What was prepared before keeps the precision it was prepared with.
    """
    if device.type == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "1"
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=precision)


def _write_any_images(folder: Path) -> None:
    """The hundred files that lucidrains' Trainer wants to see before it starts."""
    from PIL import Image

    for k in range(100):
        Image.new("L", (8, 8)).save(folder / f"{k}.png")
