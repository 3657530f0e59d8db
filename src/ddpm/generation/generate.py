"""Images from a model: image k of seed s is the same image, whatever the batch, the order or the number."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddpm.compute.hardware import Precision
from ddpm.compute.processes import assembled, dealt, leads, processes, rank
from ddpm.errors import UserError
from ddpm.images import to_uint8
from ddpm.sampling import guidance as around
from ddpm.sampling import samplers
from ddpm.sampling.catalogue import SAMPLERS
from ddpm.sampling.grids import GRIDS
from ddpm.sampling.guidance import ConditionalDenoise
from ddpm.sampling.settings import Settings
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
        """[N, *shape], the next piece of every image's stream."""
        return torch.stack([torch.randn(self.shape, generator=g) for g in self.generators]).to(self.device)


def sampling_steps(
    model: "Model",
    *,
    indices: Sequence[int],
    seed: int,
    condition: Tensor | None,
    sampler: str,
    steps: int,
    eta: float,
    guidance: float,
    device: torch.device,
    precision: Precision,
    **more: Any,
) -> Iterator[samplers.Step]:
    """The reverse process of the images with these indices, step by step.

    `condition` has a row for each of them; None gives nothing to any. `steps` are evaluations of the denoiser per image
    (with guidance, each is of two networks); a sampler whose step takes several makes fewer steps. `more` are
    `sampling.settings.Settings`; those that only another sampler reads change nothing.
    Raises UserError for a learned variance of a model that has none, and a guide that does not fit the model.
    """
    settings, process, chosen = Settings(**more), model.schedule, SAMPLERS[sampler]
    if sampler != "ddpm":
        settings = replace(settings, variance="small")
    noise = PerImageNoise(seed, indices, model.sample_shape, device)
    condition = None if condition is None else condition.to(device)
    grid = GRIDS[settings.time_grid](process, chosen.steps(steps, settings.langevin_steps), settings.rho)
    first, last = (process.sigma(samplers.at(t, torch.zeros(1))).item() for t in (grid[0], process.T))
    denoise = denoiser(model, guidance=guidance, settings=settings, precision=precision, device=device)
    return chosen.run(
        lambda x_t, t: denoise(x_t, t, condition),
        process,
        process.prior_std * first / last * noise(),
        grid,
        noise,
        **chosen.told(settings, eta),
    )


def denoiser(
    model: "Model", *, guidance: float, settings: Settings, precision: Precision, device: torch.device
) -> ConditionalDenoise:
    """The model's estimate, guided and with x_0 in [-1, 1].

    Raises UserError for a learned variance of a model that has none, and a guide that does not fit the model.
    """
    if settings.variance == "learned" and not model.spec.objective.learned_variance:
        raise UserError(
            "the variance is to be the learned one, but this model was trained without; "
            "set sample.variance to small or large"
        )
    low, high = settings.guidance_interval
    bounds = (low, math.inf if high is None else high)
    options: dict[str, Any] = {
        "scale": guidance,
        "rescale": settings.guidance_rescale,
        "active": None if bounds == (0, math.inf) else around.within(model.schedule, bounds),
    }
    denoise = model.estimator(precision=precision)
    if settings.guide is not None:
        weaker = _weaker(settings.guide, model, device).estimator(precision=precision)
        denoise = around.autoguided(denoise, weaker, **options)
    else:
        denoise = around.classifier_free(denoise, **options)
    if settings.threshold is not None:
        return around.thresholded(denoise, quantile=settings.threshold)
    return around.clipped(denoise)


def _weaker(told: str, model: "Model", device: torch.device) -> "Model":
    """The guide that the model brings along, by its sha256, or the one in a file."""
    if model.guide is not None and told == model.guide.sha256:
        return model.guide
    guide = _loaded(told, Path(told).stat().st_mtime_ns if Path(told).exists() else 0, device)
    require_guide(guide, model, called=told)
    return guide


def require_guide(guide: "Model", model: "Model", *, called: str) -> None:
    """Raises UserError unless the one can guide the other: the same images, classes and process."""
    for key in ("channels", "size", "classes"):
        theirs, ours = getattr(guide.spec, key), getattr(model.spec, key)
        if theirs != ours:
            raise UserError(
                f"the guide {called} has {key} {theirs}, the model {ours}; guide with a model of the same data"
            )
    if guide.spec.schedule != model.spec.schedule:
        raise UserError(f"the guide {called} has another schedule than the model; guide with one of the same process")


@lru_cache(maxsize=1)
def _loaded(path: str, changed: int, device: torch.device) -> "Model":
    from ddpm import model_file

    return model_file.load(path, device)


@torch.inference_mode()
def generate(
    model: "Model",
    *,
    n: int,
    seed: int,
    condition: Tensor | None,
    sampler: str,
    steps: int,
    eta: float,
    guidance: float,
    batch: int,
    device: torch.device,
    precision: Precision = "float32",
    progress: bool = False,
    first: int = 0,
    **more: Any,
) -> Tensor:
    """Images first..first+n-1 of the seed: uint8 [n,C,H,W] on the CPU.

    `condition` has n rows, or is None; `more` are `sampling.settings.Settings`. `batch` images are generated at a time,
    which changes no bit of an image on a CPU (`networks.kernels.conv`), and no more than its rounding on a GPU.
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
                condition=None if condition is None else condition[start:stop],
                sampler=sampler,
                steps=steps,
                eta=eta,
                guidance=guidance,
                device=device,
                precision=precision,
                **more,
            )
            images.append(to_uint8(last.x_t).cpu())
            bar.update(stop - start)
    return torch.cat(images)


def generate_together(
    model: "Model", *, n: int, condition: Tensor | None, batch: int, progress: bool = False, **settings: Any
) -> Tensor | None:
    """`generate` by all processes of the stage, to which the batches are dealt in turn; all must call it.

    The images are those of one process: uint8 [n,C,H,W] on rank 0, None on the others.
    """
    own = {}
    for owner, rows in dealt(n, batch if processes() > 1 else n):
        if owner == rank():
            own[rows.start] = generate(
                model,
                n=rows.stop - rows.start,
                first=rows.start,
                condition=None if condition is None else condition[rows],
                batch=batch,
                progress=progress and leads(),
                **settings,
            )
    return assembled(own, n=n, batch=batch, everywhere=False)


def balanced_labels(n: int, classes: int, seed: int) -> Tensor:
    """int64 [n]: every class as often as every other (to within one), in a seeded order."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed_of("labels", seed)))
    return torch.arange(n)[order] % classes
