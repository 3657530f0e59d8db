"""The mean and the scale by which latents are standardised."""

from dataclasses import replace

import numpy as np
import torch

from ddpm.compute.hardware import Precision, autocast
from ddpm.errors import UserError
from ddpm.images import Images, to_model_range
from ddpm.model_spec import Spec
from ddpm.networks.autoencoder_kl import AutoencoderKL

MOST = 10_000
"""Images, at most, from which an autoencoder's figures are computed."""


def spread_rows(n: int, most: int = MOST) -> np.ndarray:
    """Return the rows of up to `most` images, spread evenly over n."""
    return np.arange(min(most, n)) * n // min(most, n)


@torch.inference_mode()
def standardised(
    spec: Spec, network: AutoencoderKL, images: Images, *, precision: Precision, batch: int, device: torch.device
) -> Spec:
    """Return the specification of an autoencoder by which latents of training images, uint8 [N,C,H,W], have mean 0 and
    standard deviation 1 over all their numbers.  Rombach et al. 2022, appendix G.

    Only the scale is theirs; the shift takes the mean away too, as newer autoencoders of diffusers do. Raises UserError
    if all latents are equal, or not finite.
    """
    assert spec.codec is not None
    rows = spread_rows(len(images))
    moments = torch.zeros(2, dtype=torch.float64)
    for first in range(0, len(rows), batch):
        x = to_model_range(torch.from_numpy(images[rows[first : first + batch]]).to(device))
        with autocast(device, precision):
            latents = network.q(x)[0].double().cpu()
        moments += torch.stack([latents.sum(), latents.square().sum()])
    mean, square = (moments / (len(rows) * int(np.prod(spec.noise_shape)))).tolist()
    std = max(0.0, square - mean**2) ** 0.5
    if not (std > 0 and np.isfinite(std)):
        raise UserError(
            f"the latents of the training images have a standard deviation of {std}, expected one above 0; lower "
            "autoencoder.lr or autoencoder.kl_weight and train the autoencoder again"
        )
    return replace(spec, codec=replace(spec.codec, shift=mean, scale=1 / std))
