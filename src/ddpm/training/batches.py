"""Which images a step sees: a function of the position, so that an interrupted training goes on exactly."""

import numpy as np
import torch
from torch import Tensor

from ddpm.seeding import seed_of


class Batches:
    """An endless shuffled sequence of images, addressed by the number of images seen before.

    On CUDA the whole uint8 array is held in device memory where it takes at most a quarter of what is free;
    otherwise batches are gathered from the memory-mapped file. Nothing is decoded here.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None,
        *,
        batch_size: int,
        seed: int,
        flip: bool,
        device: torch.device,
    ) -> None:
        self.images = images
        self.labels = None if labels is None else torch.from_numpy(np.array(labels, dtype=np.int64)).to(device)
        self.batch_size = batch_size
        self.seed = seed
        self.flip = flip
        self.device = device
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)
        fits = device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] // 4
        self._resident = torch.from_numpy(np.array(images)).to(device) if fits else None

    def at(self, images_seen: int, part: slice = slice(None)) -> tuple[Tensor, Tensor | None]:
        """The batch after `images_seen` images: uint8 [B,C,H,W] and int64 labels [B] or None, on the device.

        Of `part`, only these places of the batch are read and returned.
        """
        indices = self._indices(images_seen)[part]
        if self._resident is not None:
            batch = self._resident[torch.from_numpy(indices).to(self.device)]
        else:
            batch = torch.from_numpy(self.images[indices]).to(self.device)
        if self.flip:
            mirrored = np.random.default_rng(seed_of("flip", self.seed, images_seen)).random(self.batch_size) < 0.5
            where = torch.from_numpy(mirrored[part]).to(self.device)[:, None, None, None]
            batch = torch.where(where, batch.flip(-1), batch)
        labels = None if self.labels is None else self.labels[torch.from_numpy(indices).to(self.device)]
        return batch, labels

    def _indices(self, images_seen: int) -> np.ndarray:
        """int64 [B]; a batch may end one epoch and begin the next, and no image is ever left out of an epoch."""
        n = len(self.images)
        positions = np.arange(images_seen, images_seen + self.batch_size)
        indices = np.empty(self.batch_size, dtype=np.int64)
        for epoch in range(positions[0] // n, positions[-1] // n + 1):
            if epoch != self._epoch:
                self._order = np.random.default_rng(seed_of("order", self.seed, epoch)).permutation(n)
                self._epoch = epoch
            here = positions // n == epoch
            indices[here] = self._order[positions[here] % n]
        return indices
