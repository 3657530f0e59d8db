"""The images of each training step: a function of its position, so that an interrupted training continues exactly."""

import numpy as np
import torch
from torch import Tensor

from ddpm.compute.hardware import sent
from ddpm.diffusion.sample_shape import per_sample
from ddpm.images import Images, Sharded
from ddpm.seeding import seed_of
from ddpm.training.order import make_order

_COPY_BYTES = 64 << 20


class Batches:
    """An endless shuffled sequence of images, addressed by the number of images seen before.

    On CUDA the whole array is copied to device memory if it takes at most a quarter of the free memory. Otherwise
    batches are gathered from the memory-mapped files, and shards of a store are fetched before they are needed.
    Nothing is decoded here.
    """

    def __init__(
        self,
        images: Images,
        conditions: np.ndarray | None,
        *,
        batch_size: int,
        seed: int,
        flip: bool,
        device: torch.device,
        shuffle_shards: int = 1,
    ) -> None:
        """`conditions` has a row for every image, or is None for an unconditional network.

        If the images are in several shards, `shuffle_shards` of them are mixed at a time, see order.ManyShards.
        """
        self.images = images
        self.conditions = conditions
        self.batch_size = batch_size
        self.seed = seed
        self.flip = flip
        self.device = device
        sizes = images.sizes if isinstance(images, Sharded) else (len(images),)
        self._order = make_order(sizes, seed=seed, shuffle_shards=shuffle_shards)
        # A stream's next shard is fetched when half of the current one is left.
        self._ahead = self._order.streams * (max(sizes) // 2)
        self._room_is_checked = False
        fits = device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] // 4
        self._resident = _on_device(images, device) if fits else None

    def at(self, images_seen: int, part: slice = slice(None)) -> tuple[Tensor, Tensor | None]:
        """Return the stored samples after `images_seen` images, [B, C, *shape], and their conditions [B, ...] or None.

        Both are on the device, for which this does not wait: the next images are gathered while it computes. Only the
        positions `part` of the batch are read and returned.
        """
        positions = self._positions(images_seen)[part]
        indices = self._order.indices(positions)
        if self._resident is not None:
            batch = self._resident[sent(indices, self.device)]
        else:
            self._fetch_ahead(positions)
            batch = sent(self.images[indices], self.device)
        if self.flip:
            mirrored = np.random.default_rng(seed_of("flip", self.seed, images_seen)).random(self.batch_size) < 0.5
            where = sent(mirrored[part], self.device)
            batch = torch.where(per_sample(where, batch), batch.flip(-1), batch)
        if self.conditions is None:
            return batch, None
        return batch, sent(self.conditions[indices], self.device)

    def _positions(self, images_seen: int) -> np.ndarray:
        """Return the positions, int64 [B], sorted by stream: a process that takes a slice reads from few shards."""
        positions = np.arange(images_seen, images_seen + self.batch_size)
        return positions[np.argsort(positions % self._order.streams, kind="stable")]

    def _fetch_ahead(self, positions: np.ndarray) -> None:
        if not isinstance(self.images, Sharded):
            return
        if not self._room_is_checked and len(positions) > 1:
            self._room_is_checked = True
            share = len(positions) / self.batch_size
            self.images.require_room(2 * max(1, round(share * self._order.streams)))
        self.images.prefetch([*self._order.shards(positions), *self._order.shards(positions + self._ahead)])


def _on_device(images: Images, device: torch.device) -> Tensor:
    """Return all images on the device, copied in parts, so that the host never has a second copy of all."""
    resident = torch.empty(tuple(images.shape), dtype=torch.from_numpy(np.empty(0, images.dtype)).dtype, device=device)
    step = max(1, _COPY_BYTES * len(images) // max(images.nbytes, 1))
    for start in range(0, len(images), step):
        resident[start : start + step] = torch.from_numpy(np.array(images[start : start + step])).to(device)
    return resident
