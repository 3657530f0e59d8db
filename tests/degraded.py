"""A tiny model that is given pictures, and pictures with detail that a smaller one loses."""

from typing import Any

import numpy as np

DEGRADATIONS = ("super-resolution", "inpaint", "denoise")
IMAGE: dict[str, Any] = {
    "degradations": list(DEGRADATIONS),
    "factor": 2,
    "hole": [0.3, 0.6],
    "noise": [0.0, 40.0],
}


def image_of_spec(**changes: Any) -> dict[str, Any]:
    """Changes of `conftest.TINY_SPEC` that make it a model that is given pictures."""
    return {"classes": [], "image": IMAGE | changes}


def squares(n: int, *, seed: int = 0, channels: int = 1) -> np.ndarray:
    """Return n pictures with one bright square of four pixels on a dark ground: uint8 [n,C,8,8]."""
    random = np.random.default_rng(seed)
    pictures = random.integers(20, 40, (n, channels, 8, 8)).astype(np.uint8)
    for picture in pictures:
        y, x = random.integers(0, 4, 2) * 2
        picture[:, y : y + 2, x : x + 2] = 230
    return pictures
