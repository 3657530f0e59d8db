"""FID and KID by a second extractor, so that one network's taste does not decide alone."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddpm.images import Images
from ddpm.measuring.features.description import Description
from ddpm.measuring.features.extractor import Described, FeatureExtractor, describe, few_for_fid
from ddpm.measuring.features.subset import Subset
from ddpm.measuring.frechet import fid_and_fid_infinity
from ddpm.measuring.kernel_distance import kid
from ddpm.measuring.measured import Measured
from ddpm.measuring.settings import Evaluate
from ddpm.measuring.strata import Labels


@dataclass(frozen=True)
class SecondFeatures:
    """Features by the second extractor, float32 [N,D] each, of the images whose features the first one has."""

    description: Description
    made: Tensor
    """Of the generated images."""
    reference: Tensor
    """Of the held-out images."""
    real: Tensor
    """Of the training images for the floor."""


def described_by_second(
    extractor: FeatureExtractor,
    *,
    generated: Images,
    held_out: Images,
    train: Images,
    floor: np.ndarray,
    device: torch.device,
    progress: bool,
    together: bool,
) -> SecondFeatures:
    """Return the features of images, uint8 [N,C,H,W]; `floor` are the rows of the training images for the floor.

    `together`: all processes of the stage call it, share the work, and return the same.
    """
    made, reference, real = (
        describe(
            extractor, images, device=device, progress=progress, what=f"{what}, second extractor", together=together
        ).features
        for images, what in (
            (generated, "generated"),
            (held_out, "held-out"),
            (Subset(train, np.sort(floor)), "floor"),
        )
    )
    return SecondFeatures(extractor.description, made, reference, real)


def measured_by_second(
    images: Tensor, reference: Tensor, *, settings: Evaluate, labels: tuple[Labels, Labels] = (None, None)
) -> dict[str, Measured | None]:
    """Return FID and KID of features [N,D] against features [M,D] by their names in the catalogue.

    Without more images than features there is no FID; KID is unbiased for any number of images.
    """
    few = few_for_fid(images.shape[1], {"generated": len(images), "held-out": len(reference)})
    a, b = (
        Described(features, features[:, :0]).of_classes(classes)
        for features, classes in zip((images, reference), labels, strict=True)
    )
    return {
        "fid_second": None if few else fid_and_fid_infinity(a, b)[0],
        "kid_second": kid(a, b, settings),
    }
