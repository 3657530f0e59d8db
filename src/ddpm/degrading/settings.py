"""The settings of a degraded picture as a condition: section `image` of params.yaml."""

from typing import Literal

from ddpm.errors import UserError
from ddpm.settings import require, section

Degradation = Literal["super-resolution", "colourise", "inpaint", "denoise"]
"""What a picture has lost, named by the task that brings it back."""
MOST_NOISE = 1000.0


@section
class ImageCondition:
    """How an image is degraded to become its own condition, which is joined to the input of the U-Net.  Saharia et al.
    2021 (SR3) and 2022 (Palette)."""

    degradations: tuple[Degradation, ...]
    """What the model is trained to undo; every training image gets one of them at random. super-resolution: squares of
    factor x factor pixels become their mean; colourise: the channels become their mean; inpaint: a rectangle is lost;
    denoise: Gaussian noise is added."""
    factor: int
    """Factor of super-resolution."""
    hole: tuple[float, float]
    """Least and greatest height and width of the rectangle of inpaint, as shares of the image's."""
    noise: tuple[float, float]
    """Least and greatest standard deviation of Gaussian noise on the degraded picture, in grey levels, each image with
    its own, which the network is told: noise-conditioning augmentation (Ho et al. 2022, Sec. 4.2). For denoise it is
    the noise that is removed."""

    def __post_init__(self) -> None:
        require(len(self.degradations) > 0, "degradations is empty, expected at least one")
        doubled = next((each for each in self.degradations if self.degradations.count(each) > 1), None)
        require(doubled is None, f"degradations has {doubled} twice; remove one")
        require(2 <= self.factor <= 64, f"factor is {self.factor}, expected 2 to 64")
        low, high = self.hole
        require(0 < low <= high <= 1, f"hole is {[low, high]}, expected [least, greatest], shares above 0, up to 1")
        low, high = self.noise
        require(
            0 <= low <= high <= MOST_NOISE,
            f"noise is {[low, high]}, expected [least, greatest], from 0 to {MOST_NOISE:g} grey levels",
        )
        require(
            high > 0 or "denoise" not in self.degradations,
            "noise is [0, 0], but degradations has denoise, which needs noise to remove; set noise to [0, 50] or "
            "remove denoise",
        )

    def planes(self, channels: int) -> int:
        """Return the number of planes of a condition of images with so many channels: the picture, which of its pixels
        are known, and the level of its noise."""
        return channels + 2

    def fault(self, *, channels: int | None, size: int | None) -> str | None:
        """Return one sentence about the first degradation that is impossible for images of this shape, else None.

        A value of None is not known, and nothing is refused because of it."""
        if "colourise" in self.degradations and channels not in (3, None):
            return "image.degradations has colourise, but the images are grey; remove it, or use colour images"
        if "super-resolution" in self.degradations and size is not None and (size % self.factor or size <= self.factor):
            return (
                f"image.factor is {self.factor}, expected a divisor of the size of the images ({size}) below it; "
                "change it or data.size"
            )
        return None

    def require_fits(self, *, channels: int, size: int) -> None:
        """Raise UserError for a degradation that images of this shape cannot have."""
        if (fault := self.fault(channels=channels, size=size)) is not None:
            raise UserError(fault)
