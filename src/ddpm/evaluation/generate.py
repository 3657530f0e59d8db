"""Images from a model: image k of seed s is the same image, whatever the batch, the order or the number."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddpm.diffusion import samplers
from ddpm.images import to_uint8
from ddpm.runtime import Precision
from ddpm.seeding import seed_of

if TYPE_CHECKING:
    from ddpm.model_file import Model


class PerImageNoise:
    """Standard normal noise in which every image has a stream of its own.

    Drawn on the CPU, so that the streams are the same on every device.
    """

    def __init__(self, seed: int, indices: Sequence[int], shape: tuple[int, ...], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(seed_of("image", seed, k)) for k in indices]
        self.shape = shape
        self.device = device

    def __call__(self) -> Tensor:
        """[N,C,H,W], the next piece of every image's stream."""
        return torch.stack([torch.randn(self.shape, generator=g) for g in self.generators]).to(self.device)


def sampling_steps(
    model: "Model",
    *,
    indices: Sequence[int],
    seed: int,
    labels: Tensor | None,
    sampler: str,
    steps: int,
    eta: float,
    guidance: float,
    device: torch.device,
    precision: Precision,
) -> Iterator[samplers.Step]:
    """The reverse process of the images with these indices, step by step; labels are theirs, [N]."""
    shape = (model.spec["channels"], model.spec["size"], model.spec["size"])
    noise = PerImageNoise(seed, indices, shape, device)
    labelled = model.denoiser(guidance=guidance, precision=precision)
    labels = None if labels is None else labels.to(device)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return labelled(x_t, t, labels)

    schedule = model.schedule
    grid = samplers.uniform_grid(schedule.T, steps)
    if sampler == "ddpm":
        return samplers.ddpm(denoise, schedule, noise(), grid, noise)
    return samplers.ddim(denoise, schedule, noise(), grid, noise, eta=eta)


@torch.inference_mode()
def generate(
    model: "Model",
    *,
    n: int,
    seed: int,
    labels: Tensor | None,
    sampler: str,
    steps: int,
    eta: float,
    guidance: float,
    batch: int,
    device: torch.device,
    precision: Precision = "float32",
    progress: bool = False,
    first: int = 0,
) -> Tensor:
    """Images first..first+n-1 of the seed: uint8 [n,C,H,W] on the CPU.

    `labels` are int64 [n] or None. `batch` images are generated at a time, which changes no image
    by more than rounding.
    """
    from tqdm import tqdm

    images = []
    with tqdm(total=n, desc="sampling", unit="image", disable=not progress) as bar:
        for start in range(0, n, batch):
            stop = min(start + batch, n)
            *_, last = sampling_steps(
                model,
                indices=range(first + start, first + stop),
                seed=seed,
                labels=None if labels is None else labels[start:stop],
                sampler=sampler,
                steps=steps,
                eta=eta,
                guidance=guidance,
                device=device,
                precision=precision,
            )
            images.append(to_uint8(last.x_t).cpu())
            bar.update(stop - start)
    return torch.cat(images)


def balanced_labels(n: int, classes: int, seed: int) -> Tensor:
    """int64 [n]: every class as often as every other (to within one), in a seeded order."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed_of("labels", seed)))
    return torch.arange(n)[order] % classes
