"""Models that differ in one setting and train faster: which setting would change the time of a training most."""

from dataclasses import dataclass, replace

from ddpm.model_spec import Spec
from ddpm.networks.settings import Gan, Vae

_SMALLEST = 8
"""Pixels of the smallest image, and positions of the smallest highest resolution, that are proposed."""


@dataclass(frozen=True)
class Alternative:
    """A value of a setting, with the time of the training as a share of that with the present value."""

    setting: str
    """`section.key`."""
    value: int
    share: float

    def __str__(self) -> str:
        return f"{self.setting} {self.value} ({1 / self.share:.1f} times shorter)"


def models(spec: Spec) -> dict[tuple[str, int], Spec]:
    """Return (setting, value) and the model with it: half the size, twice the patch, half the width, where valid."""
    found = {}
    divides = spec.image is None or spec.image.fault(channels=spec.channels, size=spec.size // 2) is None
    divides = divides and (spec.codec is None or spec.size // 2 % spec.codec.factor == 0)
    if spec.size // 2 >= _SMALLEST and divides:
        found["data.size", spec.size // 2] = replace(spec, size=spec.size // 2)
    if spec.vae is not None:
        return found | {
            ("vae.width", half): replace(spec, vae=replace(spec.vae, width=half)) for half in _half(spec.vae)
        }
    if spec.gan is not None:
        return found | {
            ("gan.width", half): replace(spec, gan=replace(spec.gan, width=half)) for half in _half(spec.gan)
        }
    network = spec.network
    if spec.noise_size // (2 * network.patch) >= _SMALLEST:
        patched = replace(network, patch=2 * network.patch)
        found["network.patch", patched.patch] = replace(spec, network=patched)
    try:
        narrow = replace(network, width=network.width // 2)
    except ValueError:  # half is not a multiple of 8, of the heads or of the groups
        return found
    found["network.width", narrow.width] = replace(spec, network=narrow)
    return found


def _half(section: Vae | Gan) -> list[int]:
    """Return half of the width, if it is a valid width."""
    return [] if section.width % 16 else [section.width // 2]


def ranked(spec: Spec, ratios: tuple[float | None, ...], *, images: int | None) -> list[Alternative]:
    """Return the alternatives whose share was measured, that saves most first; `images` is train.images, if it is read.

    `ratios` has one number for each of `models(spec)`. Half as many images take half of the time.
    """
    measured = zip(models(spec), ratios, strict=True)
    found = [Alternative(*key, max(ratio, 1e-3)) for key, ratio in measured if ratio is not None]
    if images is not None:
        found.append(Alternative("train.images", images // 2, 0.5))
    return sorted((one for one in found if one.share < 0.9), key=lambda one: one.share)
