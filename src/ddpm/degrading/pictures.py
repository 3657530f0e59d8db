"""Degraded pictures as they are given to a model: files of 256 levels. Held-out images are degraded for an evaluation.

The same function makes the condition of a picture in an evaluation and in a request, so both draw the same image.
"""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm.degrading import conditions
from ddpm.degrading.settings import Degradation, ImageCondition
from ddpm.images import LEVELS_PER_UNIT, Images, to_model_range, to_uint8
from ddpm.seeding import seed_of


@dataclass(frozen=True, eq=False)
class Picture:
    """A degraded picture."""

    kind: Degradation
    pixels: Tensor
    """uint8 [c, h, w]: smaller for super-resolution, one channel for colourise."""
    hole: Tensor | None = None
    """For inpaint: bool [1, H, W], true where nothing is known."""
    noise: float = 0.0
    """For denoise: standard deviation of the noise in the pixels, in grey levels."""

    def condition(self, settings: ImageCondition, *, noise: float, place: tuple[int, int]) -> Tensor:
        """Return the condition of image k of a seed with this picture: [1, C + 2, H, W]. `place` is (seed, k).

        `noise` is the standard deviation of the noise that is added to it, in grey levels; to one that has noise by
        itself, none is added.
        """
        y = to_model_range(self.pixels[None])
        level = torch.tensor([(self.noise if self.kind == "denoise" else noise) / LEVELS_PER_UNIT])
        if noise and self.kind != "denoise":
            generator = torch.Generator().manual_seed(seed_of("noise of a picture", *place))
            y = conditions.noisy(self.kind, y, level, torch.randn(y.shape, generator=generator))
        hole = None if self.hole is None else self.hole[None]
        return conditions.condition(settings, self.kind, y, level=level, hole=hole)

    def fields(self) -> dict[str, Any]:
        """Return the fields of a request that gives this picture, with PNG files in base64."""
        fields: dict[str, Any] = {"task": self.kind, "image": _png(self.pixels)}
        fields |= {} if self.hole is None else {"mask": _png(255 * self.hole.to(torch.uint8))}
        return fields | ({"noise": self.noise} if self.kind == "denoise" else {})


class Pictures:
    """Images, uint8 [N, C, H, W], that are degraded when they are read, each the same way every time.

    Picture k has the degradations in turn, and the greatest noise that denoise is trained for. Indexed by places, it
    gives conditions [n, C + 2, H, W].
    """

    def __init__(
        self, settings: ImageCondition, images: Images, *, n: int, seed: int, noise: float, in_order: bool = False
    ) -> None:
        """n pictures of images in a seeded order, again and again if they are fewer than n, or `in_order`.

        `noise` is added to all but those of denoise, see `Picture.condition`.
        """
        self.settings, self._images, self._n, self._seed, self._noise = settings, images, n, seed, noise
        self._in_order = in_order

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, places: Any) -> Tensor:
        wanted: Iterable[int] = range(self._n)[places] if isinstance(places, slice) else map(int, places)
        rows = ((k, self.picture(k)) for k in wanted)
        return torch.cat([each.condition(self.settings, noise=self._noise, place=(self._seed, k)) for k, each in rows])

    def picture(self, k: int) -> Picture:
        """Return picture k."""
        settings, image = self.settings, self.original(k)[None]
        generator = torch.Generator().manual_seed(seed_of("degraded", self._seed, k))
        chance = conditions.draw(settings, image.shape, generator=generator)
        kind = settings.degradations[k % len(settings.degradations)]
        y = conditions.measured(settings, kind, to_model_range(image))
        if kind != "denoise":
            return Picture(kind, to_uint8(y)[0], hole=chance.hole[0] if kind == "inpaint" else None)
        noise = settings.noise[1]
        y = conditions.noisy(kind, y, torch.tensor([noise / LEVELS_PER_UNIT]), chance.noise)
        return Picture(kind, to_uint8(y)[0], noise=noise)

    def original(self, k: int) -> Tensor:
        """Return the image of which picture k was made: uint8 [C, H, W]."""
        return torch.from_numpy(np.array(self._images[self.row(k)]))

    def row(self, k: int) -> int:
        """Return which of the images picture k was made of."""
        return k if self._in_order else int(self._order[k % len(self._order)])

    @cached_property
    def _order(self) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of("pictures", self._seed))
        return torch.randperm(len(self._images), generator=generator)


def _png(pixels: Tensor) -> str:
    from PIL import Image

    file, channels = io.BytesIO(), len(pixels)
    Image.fromarray(pixels[0].numpy() if channels == 1 else pixels.permute(1, 2, 0).numpy()).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
