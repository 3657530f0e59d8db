"""The condition of a degraded picture: float32 [N, C + 2, H, W], a row per image.

The planes are the picture at the image's size, in [-1, 1] and 0 where it is not known; 1 where it is known, else 0;
and the standard deviation of its noise in the model's range. A row of zeros is no picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm.degrading import operators
from ddpm.degrading.operators import Operator
from ddpm.degrading.settings import Degradation, ImageCondition
from ddpm.images import LEVELS_PER_UNIT, clipped


@dataclass(frozen=True)
class Chance:
    """The random numbers by which N images are degraded."""

    kind: Tensor
    """int64 [N]: which of the degradations."""
    level: Tensor
    """[N]: standard deviation of the noise, in the model's range."""
    noise: Tensor
    """Standard normal, [N, C, H, W]."""
    hole: Tensor
    """bool [N, 1, H, W]: what inpainting does not know."""

    def part(self, rows: slice) -> "Chance":
        return Chance(self.kind[rows], self.level[rows], self.noise[rows], self.hole[rows])


def draw(
    settings: ImageCondition,
    shape: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Chance:
    """Draw the random numbers for images of this shape, [N, C, H, W], from the generator or torch's global one."""
    n, _, height, width = shape

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, device=device, generator=generator)

    low, high = (level / LEVELS_PER_UNIT for level in settings.noise)
    return Chance(
        kind=torch.randint(len(settings.degradations), (n,), device=device, generator=generator),
        level=low + (high - low) * uniform(n),
        noise=torch.randn(*shape, device=device, generator=generator),
        hole=(
            _between(uniform(2, n), settings.hole, height)[:, :, None]
            & _between(uniform(2, n), settings.hole, width)[:, None]
        )[:, None],
    )


def _between(chance: Tensor, shares: tuple[float, float], size: int) -> Tensor:
    """Return an interval of `size` places for each of N chances [2, N] of its length and its beginning: bool [N, size].

    Its length is a share of `size` between both of `shares`.
    """
    low, high = shares
    length = ((low + (high - low) * chance[0]) * size).round().clamp(1, size)
    begin = torch.minimum((chance[1] * (size - length + 1)).floor(), size - length)[:, None]
    places = torch.arange(size, device=chance.device)
    return (places >= begin) & (places < begin + length[:, None])


def operator_of(settings: ImageCondition, kind: Degradation) -> Operator | None:
    """Return what a degradation measures of an image; None if it keeps the pixels as they are."""
    if kind == "super-resolution":
        return operators.average_pooling(settings.factor)
    return operators.grey() if kind == "colourise" else None


def measured(settings: ImageCondition, kind: Degradation, x: Tensor) -> Tensor:
    """Return what is left of images [N, C, H, W] without noise: smaller, grey, or as they are."""
    operator = operator_of(settings, kind)
    return x if operator is None else operator.measure(x)


def noisy(kind: Degradation, y: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """Return the measurement [N, c, h, w] with noise of the levels [N]; for denoise in [-1, 1], as pictures are stored.

    Of the standard normal `noise`, at least as large, a corner is used.
    """
    _, channels, height, width = y.shape
    found = y + level[:, None, None, None] * noise[:, :channels, :height, :width]
    return clipped(found) if kind == "denoise" else found


def condition(
    settings: ImageCondition, kind: Degradation, y: Tensor, *, level: Tensor, hole: Tensor | None = None
) -> Tensor:
    """Return the condition of pictures [N, c, h, w] of one degradation: [N, C + 2, H, W].

    `level` [N] is that of their noise, `hole` (bool, [N, 1, H, W]) what is not known of those of inpaint.
    """
    operator = operator_of(settings, kind)
    picture = y if operator is None else operator.undo(y)
    known = torch.ones_like(picture[:, :1]) if kind != "inpaint" or hole is None else (~hole).to(picture.dtype)
    planes = level[:, None, None, None].expand_as(known)
    return torch.cat([picture * known, known, planes], dim=1)


def degraded(settings: ImageCondition, x_0: Tensor, chance: Chance) -> Tensor:
    """Return the condition of images [N, C, H, W] that are degraded by chance: [N, C + 2, H, W]."""
    found: Tensor | None = None
    for place, kind in enumerate(settings.degradations):
        y = noisy(kind, measured(settings, kind, x_0), chance.level, chance.noise)
        of_kind = condition(settings, kind, y, level=chance.level, hole=chance.hole)
        found = of_kind if found is None else torch.where((chance.kind == place)[:, None, None, None], of_kind, found)
    assert found is not None
    return found


def kept(x: Tensor, condition: Tensor | None) -> Tensor:
    """Return images [N, C, H, W] with the known pixels of pictures that have a hole and no noise, to the bit."""
    if condition is None:
        return x
    picture, known, level = condition.split([condition.shape[1] - 2, 1, 1], dim=1)
    is_exact = (level == 0).all(dim=(1, 2, 3), keepdim=True) & (known == 0).any(dim=(1, 2, 3), keepdim=True)
    return torch.where(is_exact & (known == 1), picture, x)
