"""denoising-diffusion-pytorch: its Unet, GaussianDiffusion and Trainer, as its README shows them, made small."""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from common import Images
from torch import Tensor

from contenders import EMA, RAW, Budget, Draw, Setting, in_batches

if TYPE_CHECKING:
    from denoising_diffusion_pytorch import GaussianDiffusion

MULTIPLIERS = (1, 2, 4)
LR = 1e-4
ENDLESS = 10**9
"""Steps that no budget reaches: its training is cut at the time, and its learning rate does not decay."""


class _TimeOver(Exception):  # noqa: N818  no error
    """The budget is spent."""


def _ddim(steps: int) -> Setting:
    return Setting(f"DDIM {steps}", steps)


@dataclass
class Lucidrains:
    batch_size: int = 16
    """The Trainer's default, which makes the most steps in a given time."""
    width: int = 32
    batch: int = 256

    name = "lucidrains"
    weights = None
    default = _ddim(50)
    ladder = (_ddim(5), _ddim(10), _ddim(20), _ddim(50))

    def choices(self) -> str:
        return (
            f"Unet of dim {self.width} and multipliers {MULTIPLIERS} (its README: 64 and (1, 2, 4, 8), for "
            "larger images), GaussianDiffusion with its defaults (target v, sigmoid schedule of 1000 steps), its "
            f"Trainer on a folder of PNG files: Adam at {LR:g}, batch {self.batch_size}, its EMA, float32, no "
            "mirroring, no pictures or FID in between."
        )

    def diffusion(self, channels: int, size: int) -> "GaussianDiffusion":
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet

        levels = min(len(MULTIPLIERS), max(2, (size // 4).bit_length()))
        network = Unet(dim=self.width, dim_mults=MULTIPLIERS[:levels], channels=channels)
        return GaussianDiffusion(network, image_size=size)

    def train(self, images: Images, budget: Budget, folder: Path) -> list[str]:
        with tempfile.TemporaryDirectory() as scratch:
            with budget.pause():  # a user's images lie there already
                write_png(images.train, Path(scratch) / "pictures")
            torch.manual_seed(0)
            trainer = make_trainer(
                self.diffusion(*images.train.shape[1:3]), Path(scratch) / "pictures", batch_size=self.batch_size
            )
            trainer.dl = _within(budget, trainer.dl)
            with contextlib.suppress(_TimeOver), without_progress_bar():  # to ENDLESS
                trainer.train()
            budget.end()
        network = trainer.accelerator.unwrap_model(trainer.model)
        _save(network, folder / f"{RAW}.safetensors")
        _save(trainer.ema.ema_model, folder / f"{EMA}.safetensors")
        return [RAW, EMA]

    def drawer(self, folder: Path, weights: str) -> Draw:
        from safetensors import safe_open

        from ddpm.compute.hardware import choose_device

        with safe_open(folder / f"{weights}.safetensors", framework="pt") as file:
            told = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        diffusion = self.diffusion(int(told["channels"]), int(told["size"]))
        diffusion.load_state_dict(tensors)
        diffusion.to(choose_device("auto")).eval()

        def draw(n: int, seed: int, setting: Setting) -> Tensor:
            diffusion.sampling_timesteps = setting.evaluations
            diffusion.is_ddim_sampling = setting.evaluations < diffusion.num_timesteps
            torch.manual_seed(seed)

            def some(_: int, size: int) -> Tensor:
                with without_progress_bar():  # one for each batch
                    made = diffusion.sample(batch_size=size)
                return (made * 255).round().clamp(0, 255).to(torch.uint8).cpu()

            return in_batches(n, self.batch, some)

        return draw


def _within(budget: Budget, batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """The batches until the budget is over; asking for one says that the one before has been learned."""
    for batch in batches:
        yield batch
        budget.note(budget.done + len(batch))
        if budget.over:
            raise _TimeOver


def make_trainer(diffusion: "GaussianDiffusion", pictures: Path, *, batch_size: int) -> Any:
    """Its Trainer on a folder of at least 100 pictures, without samples and FID in between; results stand beside it."""
    from denoising_diffusion_pytorch import Trainer

    return Trainer(
        diffusion,
        str(pictures),
        train_batch_size=batch_size,
        train_lr=LR,
        train_num_steps=ENDLESS,
        save_and_sample_every=ENDLESS,
        augment_horizontal_flip=False,
        calculate_fid=False,
        results_folder=str(pictures.with_name("results")),
    )


def without_progress_bar() -> contextlib.AbstractContextManager[Any]:
    return contextlib.redirect_stderr(io.StringIO())


def write_png(images: np.ndarray, folder: Path) -> None:
    """uint8 [N,C,H,W] -> N files."""
    from torchvision.transforms.functional import to_pil_image

    folder.mkdir(parents=True)
    for k, image in enumerate(images):
        to_pil_image(torch.from_numpy(image.copy())).save(folder / f"{k:07}.png")


def _save(diffusion: Any, path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous().clone() for name, tensor in diffusion.state_dict().items()}
    header = {"channels": str(diffusion.channels), "size": str(diffusion.image_size[0])}
    save_file(tensors, path, header)
