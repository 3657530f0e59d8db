"""Seeded subsets of sets of images, drawn without a list of all rows and read a batch at a time."""

from typing import Any

import numpy as np
import torch

from ddpm.images import Images

_LISTED = 2**20
"""Rows of larger sets are drawn without a permutation of all of them."""


def draw_rows(n: int, of: int, *, seed: int) -> np.ndarray:
    """Return n distinct rows of 0 to of - 1 in random order: int64 [n].

    The memory is that of n rows, and at most 8 MB more.
    """
    if of <= _LISTED:
        return torch.randperm(of, generator=torch.Generator().manual_seed(seed))[:n].numpy()
    return np.random.default_rng(seed).choice(of, n, replace=False)


class Subset:
    """Some rows of a set of images, uint8 [n,C,H,W], read-only; they are read when they are indexed."""

    def __init__(self, images: Images, rows: np.ndarray) -> None:
        self._images, self.rows = images, rows
        self.shape = (len(rows), *images.shape[1:])
        self.dtype = images.dtype

    @property
    def nbytes(self) -> int:
        return len(self) * int(np.prod(self.shape[1:])) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._images[self.rows[rows]]
