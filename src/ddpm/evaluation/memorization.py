"""Are images copies of training images? Judged against what real images that nobody trained on look like."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from ddpm.images import Images

CHUNK_ROWS = 4096
CHUNK_NUMBERS = 2**25
"""A chunk has at most so many rows and numbers, so that 10,000 images against 60,000 need under 0.5 GB."""


@dataclass(frozen=True)
class Nearest:
    """For each of N items, the training item it is nearest to."""

    distance: np.ndarray  # float64 [N], root mean square difference per number (pixels: grey levels, 0..255)
    index: np.ndarray  # int64 [N]


@dataclass(frozen=True)
class Copies:
    """Generated images and training images in one space, pixels or features."""

    nearest: Nearest
    """Of the generated images."""
    limit: float
    """An image at most this far from a training image counts as a copy."""
    share: float
    """Of the generated images, those that count as copies."""
    held_out_share: float
    """Of the held-out real images, those that would: what chance gives, about the quantile."""

    @property
    def is_copy(self) -> np.ndarray:
        """bool [N]"""
        return self.nearest.distance <= self.limit


def find_copies(
    generated: Images,
    held_out: Images,
    train: Images,
    *,
    quantile: float,
    device: torch.device,
    progress: bool,
    space: str,
) -> Copies:
    """Which generated items are nearer to a training item than a `quantile` of the held-out real ones are.

    Items are uint8 images [N,C,H,W] or features [N,D]; `space` is what the progress bar calls them.
    """
    real = nearest(held_out, train, device=device, progress=progress, what=f"held-out, {space}")
    made = nearest(generated, train, device=device, progress=progress, what=f"generated, {space}")
    limit = float(np.quantile(real.distance, quantile))
    return Copies(made, limit, float(np.mean(made.distance <= limit)), float(np.mean(real.distance <= limit)))


def nearest(items: Images, train: Images, *, device: torch.device, progress: bool, what: str) -> Nearest:
    """The training item nearest to each item, by Euclidean distance. Both may be memory-mapped.

    Memory is bounded by the chunks. The distances of a whole chunk are rounded (they come from a matrix product),
    so the one to the neighbour found is computed again: a copy is at 0 exactly.
    """
    from tqdm import tqdm

    numbers = math.prod(items.shape[1:])
    rows = max(1, min(CHUNK_ROWS, CHUNK_NUMBERS // numbers))
    best = torch.full((len(items),), math.inf)
    index = torch.zeros(len(items), dtype=torch.long)
    with tqdm(total=len(train), desc=f"nearest, {what}", unit="image", delay=1, disable=not progress) as bar:
        for start in range(0, len(train), rows):
            references = _flat(train[start : start + rows]).to(device)
            for first in range(0, len(items), rows):
                part = slice(first, first + rows)
                distance, column = torch.cdist(_flat(items[part]).to(device), references).min(dim=1)
                distance, column = distance.cpu(), column.cpu()
                nearer = distance < best[part]
                best[part] = torch.where(nearer, distance, best[part])
                index[part] = torch.where(nearer, column + start, index[part])
            bar.update(len(references))
    exact = np.empty(len(items))
    for first in range(0, len(items), rows):
        part = slice(first, first + rows)
        difference = _flat(items[part]) - _flat(train[index[part].numpy()])
        exact[part] = difference.square().mean(dim=1, dtype=torch.float64).sqrt().numpy()
    return Nearest(exact, index.numpy())


def _flat(items: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(items, dtype=np.float32)).reshape(len(items), -1)
