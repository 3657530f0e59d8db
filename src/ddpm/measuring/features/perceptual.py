"""The perceptual distance of two images: that of the pipeline's feature extractor, layer by layer."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddpm.errors import UserError
from ddpm.measuring.features.classifier import Classifier
from ddpm.measuring.features.extractor import Extractor
from ddpm.measuring.features.extractor_file import load_extractor

_EPS = 1e-6
"""Added to the length of an activation: where a layer sees nothing, its direction has no meaning."""


@dataclass(frozen=True, eq=False)
class PerceptualDistance:
    """LPIPS (Zhang et al. 2018) without learned factors: activations of several layers are scaled to length 1 at each
    position, and their squared differences are averaged over positions and layers."""

    network: Classifier
    sha256: str
    """That of the extractor's file."""

    def __call__(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Return the distance of images [N,C,H,W] in [-1, 1] with a gradient for x_hat: [N], 0 to 4."""
        with torch.no_grad():
            real = self.network.activations(x)
        layers = [
            (_directions(a) - _directions(b)).square().sum(dim=1).mean(dim=(1, 2))
            for a, b in zip(real, self.network.activations(x_hat), strict=True)
        ]
        return torch.stack(layers).mean(dim=0)


def perceptual_distance(extractor: Path, device: torch.device | str) -> PerceptualDistance:
    """Return the distance by the extractor in this file.

    Raises UserError as `load_extractor` does, and for a published network.
    """
    found = load_extractor(extractor, device)
    if not isinstance(found, Extractor):
        raise UserError(
            f"{extractor} is {found.description.name}, and the perceptual distance needs an extractor that the "
            "pipeline trained; set autoencoder.perceptual_weight to 0, or features.extractor to classifier or rotation"
        )
    return PerceptualDistance(found.network, found.sha256)


def _directions(activations: Tensor) -> Tensor:
    """Scale the activations [N,C,h,w] to length 1 at each position, in float32."""
    wide = activations.float()
    return wide / ((wide.square().sum(dim=1, keepdim=True) + _EPS**2).sqrt() + _EPS)
