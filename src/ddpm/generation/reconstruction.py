"""What the autoencoder of a model makes of images: encoded as latents, and decoded again."""

import numpy as np
import torch

from ddpm.compute.hardware import choose_precision
from ddpm.compute.settings import Precision
from ddpm.images import to_model_range, to_uint8
from ddpm.model_file import Model


@torch.inference_mode()
def restored_images(model: Model, images: np.ndarray, *, precision: Precision, batch: int) -> np.ndarray:
    """Return images, uint8 [N,C,H,W], after encoding by the mean of q and decoding, `batch` at a time.

    `precision` is runtime.precision. Latents are not rounded as stored ones are.
    """
    device = next(model.network.parameters()).device
    chosen = choose_precision(precision, device, model.spec.noise_size)
    restored = []
    for first in range(0, len(images), batch):
        x = to_model_range(torch.from_numpy(np.array(images[first : first + batch])).to(device))
        restored.append(to_uint8(model.decoded(model.encoded(x, precision=chosen), precision=chosen)).cpu())
    return torch.cat(restored).numpy()
