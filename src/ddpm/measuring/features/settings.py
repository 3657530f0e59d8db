"""The feature extractor: `features` in params.yaml."""

from typing import Literal, get_args

from ddpm.settings import require, require_at_least, require_named, require_positive, section

Trained = Literal["classifier", "rotation"]
"""Extractors that the pipeline trains on the data."""
Pretrained = Literal["inception", "dinov2", "clip"]
"""Published extractors, by local weights."""
Kind = Literal[Trained, Pretrained]


@section
class Features:
    """The feature extractors of FID, KID, precision and recall."""

    extractor: Literal["auto", Kind]
    """auto: inception if there are weights, else classifier if there are labels, else rotation (4 classes). inception,
    dinov2 and clip are networks that were trained on photographs of the internet; they need weights below."""
    second: Kind | None
    """Another extractor for FID and KID (`fid_second`, `kid_second`), so that two judge together; null: none."""
    inception_weights: str | None
    """Path of torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`, checked by its sha256."""
    dinov2_weights: str | None
    """Path of Meta's weights of DINOv2 without registers, such as `dinov2_vits14_pretrain.pth`, or of a safetensors
    file of the same tensors. Nothing in the file is executed."""
    clip_weights: str | None
    """Path of OpenAI's weights of CLIP with a vision transformer, such as `ViT-B-32.pt`, checked by its sha256, or of a
    file of the same tensors, in safetensors or as torch saves them."""
    dim: int
    """Features per image of the extractors that are trained here."""
    images: int
    """Images seen in the training of each of them."""
    batch_size: int
    """Images per step of that training."""
    lr: float
    """Largest learning rate of that training."""
    standardise_images: int
    """Largest number of training images over which their features are standardised, and of held-out images for their
    accuracy; a seeded subset of larger sets."""
    seed: int
    """Decides the first weights, the order of images of that training, and the subsets."""

    def __post_init__(self) -> None:
        require_positive(self, "images", "batch_size", "lr")
        require(self.dim >= 16, f"dim is {self.dim}, expected at least 16")
        require_at_least(0, self, "seed")
        require_at_least(2, self, "standardise_images")
        require_named(self, *(f"{kind}_weights" for kind in get_args(Pretrained)))
        for key, kind in (("extractor", self.extractor), ("second", self.second)):
            require(
                kind not in get_args(Pretrained) or getattr(self, f"{kind}_weights") is not None,
                f"{key} is {kind}, but {kind}_weights is null; give the path of the weights there",
            )
        first = "inception" if self.extractor == "auto" and self.inception_weights is not None else self.extractor
        require(
            self.second != first,
            f"second is {self.second}, which is the first extractor already; choose another one, or null",
        )

    def weights(self, kind: Kind) -> str:
        """Return the path of the weights of a published extractor."""
        return str(getattr(self, f"{kind}_weights"))
