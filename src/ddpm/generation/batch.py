"""A batch of images to sample: model, recipe, seed and indices. Image k of a seed is the same image in every batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor

from ddpm import model_file
from ddpm.compute.hardware import Precision, choose_precision
from ddpm.degrading.conditions import kept
from ddpm.errors import UserError
from ddpm.generation.recipe import Recipe
from ddpm.images import to_uint8
from ddpm.model_file import Model
from ddpm.model_spec import require_diffusion, require_pixels
from ddpm.sampling.drawing import surrounded
from ddpm.sampling.guidance import ConditionalDenoise
from ddpm.sampling.samplers import Denoise
from ddpm.seeding import seed_of


class PerImageNoise:
    """Standard normal noise with a separate stream for every image.

    It is drawn on the CPU, so that the streams are the same on every device. It is copied to CUDA from pinned memory
    while the GPU computes; torch reuses that memory only after the copy.
    """

    def __init__(self, seed: int, indices: Sequence[int], shape: tuple[int, ...], device: torch.device) -> None:
        self._begin([(seed, k) for k in indices], shape, device, "image")

    @classmethod
    def of(
        cls, places: Sequence[tuple[int, int]], shape: tuple[int, ...], device: torch.device, stream: str
    ) -> "PerImageNoise":
        """Return the streams of this name of images, each at its place: seed and index."""
        made = cls.__new__(cls)
        made._begin(places, shape, device, stream)
        return made

    def _begin(
        self, places: Sequence[tuple[int, int]], shape: tuple[int, ...], device: torch.device, stream: str
    ) -> None:
        self.generators = [torch.Generator().manual_seed(seed_of(stream, *place)) for place in places]
        self.shape = shape
        self.device = device

    def __call__(self) -> Tensor:
        """Return the next values of every image's stream, [N, *shape]."""
        drawn = torch.empty((len(self.generators), *self.shape), pin_memory=self.device.type == "cuda")
        for image, generator in zip(drawn, self.generators, strict=True):
            image.normal_(generator=generator)
        return drawn.to(self.device, non_blocking=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """A request for N images of a seed."""

    model: Model
    recipe: Recipe
    seed: int
    indices: Sequence[int]
    """Indices k of the N images within the seed."""
    condition: Tensor | None
    """Condition of the network, one row per image; None for no condition. Of a cascade that of its base."""
    stream: str = "image"
    """Name of the streams of noise."""

    @property
    def device(self) -> torch.device:
        return next(self.model.network.parameters()).device

    @property
    def places(self) -> Sequence[tuple[int, int]]:
        """Seed and index of each image."""
        return [(self.seed, k) for k in self.indices]

    def noise(self) -> PerImageNoise:
        """Return new streams, each at its beginning."""
        return PerImageNoise.of(self.places, self.model.noise_shape, self.device, self.stream)

    def drawn(self, z: Tensor) -> Tensor:
        """Return the images of latents z, in one evaluation, for methods vae and gan: [N,C,H,W]."""
        condition = None if self.condition is None else self.condition.to(self.device)
        return self.model.drawn(z, condition, precision=self._precision)

    def levels(self, x: Tensor) -> Tensor:
        """Return the images of what the reverse process draws, [N, *noise_shape]: uint8 [N,C,H,W] on the CPU.

        Where a picture with a hole is the condition, its known pixels are kept to the bit. Raise NotFiniteError as
        `to_uint8` does.
        """
        if self.model.spec.image is not None and self.condition is not None and self.model.base is None:
            x = kept(x, self.condition.to(x.device))
        return to_uint8(self.model.decoded(x, precision=self._precision)).cpu()

    def encoded(self, x: Tensor) -> Tensor:
        """Return images [N,C,H,W] in [-1, 1] as what the reverse process draws; see `levels`."""
        return self.model.encoded(x, precision=self._precision)

    def denoise(self) -> Denoise:
        """Return the model's denoiser with the condition, with guidance and with x_0 in [-1, 1].

        Raise UserError for a guide that does not fit the model, or for dynamic thresholding of latents.
        """
        if self.recipe.threshold is not None:
            require_pixels(self.model.spec, "threshold")
        precision = self._precision
        guide = None if self.recipe.guide is None else _guide(self.recipe.guide, self.model, self.device)
        estimate = surrounded(
            self.recipe,
            _reading_once(self.model, precision),
            self.model.schedule,
            None if guide is None else _reading_once(guide, precision),
        )
        condition = None if self.condition is None else self.condition.to(self.device)
        return lambda x_t, t: estimate(x_t, t, condition)

    @property
    def _precision(self) -> Precision:
        return choose_precision(self.recipe.precision, self.device, self.model.spec.noise_size)


def _reading_once(model: Model, precision: Precision) -> ConditionalDenoise:
    """Return the model's estimator, which encodes a condition only when it is given it for the first time."""
    estimate = model.estimator(precision=precision)
    # Guidance evaluates with the condition and without; a tensor is its own key.
    read = lru_cache(maxsize=2)(partial(model.read_condition, precision=precision))
    return lambda x_t, t, condition: estimate(x_t, t, read(condition, len(x_t)))


def _guide(name: str, model: Model, device: torch.device) -> Model:
    """Return the guide from the model's file, named by its sha256, or from another file."""
    if model.guide is not None and name == model.guide.sha256:
        return model.guide
    guide = _loaded(name, Path(name).stat().st_mtime_ns if Path(name).exists() else 0, device)
    require_guide(guide, model, called=name)
    return guide


def require_guide(guide: Model, model: Model, *, called: str) -> None:
    """Raise UserError unless guide and model have the same shape of images, classes and process."""
    require_diffusion(guide.spec, f"the guide {called}")
    if guide.spec.reading != model.spec.reading:
        raise UserError(
            f"the guide {called} reads captions otherwise than the model, by another tokenizer or text.length; guide "
            "with a model of its kind"
        )
    if guide.spec.image != model.spec.image:
        raise UserError(
            f"the guide {called} is given pictures that are degraded otherwise than the model's (section image); guide "
            "with a model of its kind"
        )
    for key in ("channels", "size", "classes", "codec"):
        theirs, ours = getattr(guide.spec, key), getattr(model.spec, key)
        if theirs != ours:
            raise UserError(
                f"the guide {called} has {key} {theirs}, the model {ours}; guide with a model of the same data"
            )
    if guide.spec.schedule != model.spec.schedule:
        raise UserError(f"the guide {called} has another schedule than the model; guide with one of the same process")


@lru_cache(maxsize=1)
def _loaded(path: str, changed: int, device: torch.device) -> Model:
    return model_file.load(path, device)
