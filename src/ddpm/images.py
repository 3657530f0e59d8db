"""The one way between stored images (uint8) and the model's range, shared by training, evaluation and serving."""

import torch
from torch import Tensor


def to_model_range(images: Tensor) -> Tensor:
    """uint8 [N,C,H,W] in 0..255 -> float32 in [-1, 1] (Ho et al. 2020, Sec. 3.3)."""
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """float [N,C,H,W] -> uint8; values outside [-1, 1] are clamped, the rest rounded to the nearest level."""
    return ((x.to(torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
