"""Uses of a trained model on given images: uint8 in, uint8 out. Image k of a seed is the same in any batch.

Each use is the sampler that its paper uses. `images` are [N,C,H,W] (or what a measurement of them is), one per
image to make; the images of an `Artist` are its own `indices`, so a caller may make them in parts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddpm.compute.hardware import Precision
from ddpm.generation.generate import PerImageNoise, denoiser
from ddpm.images import LEVELS_PER_UNIT, to_model_range, to_uint8
from ddpm.model_file import Model
from ddpm.sampling import editing, grids, restoration, samplers
from ddpm.sampling.restoration import Operator
from ddpm.sampling.samplers import Denoise, Step
from ddpm.sampling.settings import Settings

ETA = 0.85
"""Randomness of the restorations, as in Wang et al. 2023, Sec. 4."""


@dataclass(frozen=True, eq=False)
class Artist:
    """A model with all that decides how it draws, but for the images."""

    model: Model
    seed: int
    condition: Tensor | None
    """[N, ...]"""
    guidance: float
    settings: Settings
    """Of the model's recipe, for what surrounds the denoiser: thresholds, intervals, guide."""
    device: torch.device
    precision: Precision
    indices: Sequence[int]
    """Of the images within their seed, N of them."""

    def denoise(self) -> Denoise:
        settings = replace(self.settings, variance="small")  # no use asks for the variance
        conditional = denoiser(
            self.model, guidance=self.guidance, settings=settings, precision=self.precision, device=self.device
        )
        condition = None if self.condition is None else self.condition.to(self.device)
        return lambda x_t, t: conditional(x_t, t, condition)

    def noise(self) -> PerImageNoise:
        return PerImageNoise(self.seed, self.indices, self.model.sample_shape, self.device)

    def seen(self, images: Tensor) -> Tensor:
        return to_model_range(images.to(self.device))


@torch.inference_mode()
def inpaint(artist: Artist, images: Tensor, mask: Tensor, *, steps: int, jump: int, resamplings: int) -> Tensor:
    """The images where mask (bool, broadcast to [N,1,H,W]) is true, to the bit; the model's by RePaint elsewhere."""
    process, noise = artist.model.schedule, artist.noise()
    grid = grids.optimized(process, steps)
    path = restoration.resampling_path(grid, jump=jump, resamplings=resamplings)
    return _last(
        restoration.repaint(
            artist.denoise(),
            process,
            process.prior_std * noise(),
            path,
            noise,
            known=artist.seen(images),
            mask=mask.to(artist.device),
        )
    )


@torch.inference_mode()
def restore(artist: Artist, measured: Tensor, operator: Operator, *, steps: int) -> Tensor:
    """Images whose measurement is the given one, as far as 256 levels can have it (`Operator.settle`), by DDNM.

    Means (super-resolution, colourisation) are the given ones to the bit. A blur of the images is the given picture
    as nearly as any image's in the root mean square, and half a level of rounding.
    """
    process, noise, y = artist.model.schedule, artist.noise(), artist.seen(measured)
    denoise = restoration.consistent(artist.denoise(), operator, y)
    grid = grids.optimized(process, steps)
    *_, step = samplers.ddim(denoise, process, process.prior_std * noise(), grid, noise, eta=ETA)
    return to_uint8(operator.settle(step.x_t, y)).cpu()


@torch.inference_mode()
def denoise(artist: Artist, images: Tensor, *, std: float, steps: int) -> Tensor:
    """Images of which the given ones may be noisy views; `std` of that noise in grey levels."""
    process, noise = artist.model.schedule, artist.noise()
    grid = grids.optimized(process, steps)
    x_t, grid = restoration.start_of_noisy(process, artist.seen(images), grid, std=std / LEVELS_PER_UNIT)
    return _last(samplers.ddpm(artist.denoise(), process, x_t, grid, noise, variance="small"))


@torch.inference_mode()
def edit(artist: Artist, images: Tensor, *, strength: float, steps: int) -> Tensor:
    """The images drawn anew from noise of this strength, by SDEdit."""
    process, noise = artist.model.schedule, artist.noise()
    grid = grids.optimized(process, steps)
    x_t, grid = editing.start_of_edit(process, artist.seen(images), grid, strength=strength, noise=noise)
    return _last(samplers.ddpm(artist.denoise(), process, x_t, grid, noise, variance="small"))


@torch.inference_mode()
def interpolate(artist: Artist, a: Tensor, b: Tensor, weight: Tensor, *, steps: int, iterations: int) -> Tensor:
    """Images between a and b, `weight` [N] in [0, 1] of b: both inverted by DDIM, met on a great circle of noise."""
    process, denoise = artist.model.schedule, artist.denoise()
    grid = grids.optimized(process, steps)
    from_a, from_b = (
        editing.ddim_inversion(denoise, process, artist.seen(images), grid, iterations=iterations) for images in (a, b)
    )
    x_T = editing.slerp(from_a, from_b, weight.to(artist.device))
    return _last(samplers.ddim(denoise, process, x_T, grid, artist.noise(), eta=0.0))


def _last(steps: Iterator[Step]) -> Tensor:
    *_, step = steps
    return to_uint8(step.x_t).cpu()
