"""The feature extractor: `features` in params.yaml."""

from typing import Literal

from ddpm.settings import require, require_at_least, require_named, require_positive, section


@section
class Features:
    """The feature extractor of FID, KID, precision and recall."""

    extractor: Literal["auto", "classifier", "rotation", "inception"]
    """auto: inception if there are weights, else classifier if there are labels, else rotation (4 classes)."""
    inception_weights: str | None
    """Path of torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`."""
    dim: int
    """Features per image of the small extractor."""
    images: int
    """Images seen in the training of the small extractor."""
    batch_size: int
    """Images per step of that training."""
    lr: float
    """Largest learning rate of that training."""
    standardise_images: int
    """Largest number of training images over which its features are standardised, and of held-out images for its
    accuracy; a seeded subset of larger sets."""
    seed: int
    """Decides the first weights, the order of images of that training, and the subsets."""

    def __post_init__(self) -> None:
        require_positive(self, "images", "batch_size", "lr")
        require(self.dim >= 16, f"dim is {self.dim}, expected at least 16")
        require_at_least(0, self, "seed")
        require_at_least(2, self, "standardise_images")
        require_named(self, "inception_weights")
        require(
            self.extractor != "inception" or self.inception_weights is not None,
            "extractor is inception, but inception_weights is null; give the path of "
            "weights-inception-2015-12-05-6726825d.pth there",
        )
