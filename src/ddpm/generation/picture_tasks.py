"""Tasks of a trained model on given pictures: uint8 in, uint8 out. Image k of a seed is the same in any batch.

Each task uses the sampler of its paper, and guidance and clipping from the batch's recipe. `images` are [N,C,H,W] (or a
measurement of such images), one for each image of the batch. A model of latents does a task in its latents; tasks that
need pixels raise UserError.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.degrading.operators import Operator
from ddpm.generation.batch import Batch
from ddpm.images import LEVELS_PER_UNIT, to_model_range, to_uint8
from ddpm.model_spec import require_pixels
from ddpm.sampling import editing, grids, restoration, samplers
from ddpm.sampling.samplers import Step, last_of

ETA = 0.85
"""eta of DDIM in `restore`, as in Wang et al. 2023, Sec. 4."""


@torch.inference_mode()
def inpaint(batch: Batch, images: Tensor, mask: Tensor, *, steps: int, jump: int, resamplings: int) -> Tensor:
    """Keep the images, to the bit, where mask (bool, broadcast to [N,1,H,W]) is true; elsewhere inpaint by RePaint.

    What is not known does not change the result. A model of latents inpaints the latents that are not known.
    """
    process, noise, spec = batch.model.schedule, batch.noise(), batch.model.spec
    images, mask = images.to(batch.device), mask.to(batch.device)
    inside = mask if spec.codec is None else known_latents(mask, factor=spec.codec.factor)
    grid = grids.optimized(process, steps)
    path = restoration.resampling_path(grid, jump=jump, resamplings=resamplings)
    drawn = _last(
        batch,
        restoration.repaint(
            batch.denoise(),
            process,
            process.prior_std * noise(),
            path,
            noise,
            known=batch.encoded(torch.where(mask, to_model_range(images), 0.0)),
            mask=inside,
        ),
    )
    return torch.where(mask, images, drawn.to(batch.device)).cpu()


def known_latents(mask: Tensor, *, factor: int) -> Tensor:
    """Return which latents are known, bool [N,1,h,w]: where all pixels of theirs and of their neighbours are.

    A latent depends on pixels around its own, so one beside the unknown part would have its border in it.
    """
    unknown = F.max_pool2d((~mask).float(), factor)
    return ~F.max_pool2d(unknown, 3, stride=1, padding=1).bool()


@torch.inference_mode()
def restore(batch: Batch, measured: Tensor, operator: Operator, *, steps: int) -> Tensor:
    """Return images with the given measurement, as exactly as 256 levels allow (`Operator.settle`), by DDNM.

    Means (super-resolution, colourisation) equal the given ones to the bit. The blur of the images is as near to the
    given picture as possible in the root mean square, plus half a level of rounding.
    """
    require_pixels(batch.model.spec, "restoration of a measurement")
    process, noise, y = batch.model.schedule, batch.noise(), to_model_range(measured.to(batch.device))
    denoise = restoration.consistent(batch.denoise(), operator, y)
    grid = grids.optimized(process, steps)
    step = last_of(samplers.ddim(denoise, process, process.prior_std * noise(), grid, noise, eta=ETA))
    return to_uint8(operator.settle(step.x_t, y)).cpu()


@torch.inference_mode()
def denoise(batch: Batch, images: Tensor, *, std: float, steps: int) -> Tensor:
    """Return samples of clean images given the noisy ones; `std` is that of the noise in grey levels."""
    require_pixels(batch.model.spec, "denoising of a picture")
    process, noise, y = batch.model.schedule, batch.noise(), to_model_range(images.to(batch.device))
    grid = grids.optimized(process, steps)
    x_t, grid = restoration.start_of_noisy(process, y, grid, std=std / LEVELS_PER_UNIT)
    return _last(batch, samplers.ddpm(batch.denoise(), process, x_t, grid, noise, variance="small"))


@torch.inference_mode()
def edit(batch: Batch, images: Tensor, *, strength: float, steps: int) -> Tensor:
    """Return the images after noise of this strength (in (0, 1]) and sampling, by SDEdit."""
    process, noise = batch.model.schedule, batch.noise()
    grid = grids.optimized(process, steps)
    x_t, grid = editing.start_of_edit(process, _as_drawn(batch, images), grid, strength=strength, noise=noise)
    return _last(batch, samplers.ddpm(batch.denoise(), process, x_t, grid, noise, variance="small"))


@torch.inference_mode()
def interpolate(batch: Batch, a: Tensor, b: Tensor, weight: Tensor, *, steps: int, iterations: int) -> Tensor:
    """Return images between a and b, `weight` [N] in [0, 1] of b: invert both by DDIM and interpolate their noises."""
    process, denoise = batch.model.schedule, batch.denoise()
    grid = grids.optimized(process, steps)
    from_a, from_b = (
        editing.ddim_inversion(denoise, process, _as_drawn(batch, images), grid, iterations=iterations)
        for images in (a, b)
    )
    x_T = editing.slerp(from_a, from_b, weight.to(batch.device))
    return _last(batch, samplers.ddim(denoise, process, x_T, grid, batch.noise(), eta=0.0))


def _as_drawn(batch: Batch, images: Tensor) -> Tensor:
    """Return the images as the reverse process draws them: in the model's range, or their latents."""
    return batch.encoded(to_model_range(images.to(batch.device)))


def _last(batch: Batch, steps: Iterator[Step]) -> Tensor:
    return batch.levels(last_of(steps).x_t)
