"""Images in memory, from which the peers' loops take whole batches: neither peer pays for decoding files."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class InMemory(Dataset[Tensor]):
    """Images in one tensor, from which a DataLoader takes a whole batch at once."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.images[indices]


def batches(images: Tensor, batch_size: int) -> DataLoader[Tensor]:
    """Shuffled, without worker processes: there is nothing to decode. The images that fill no batch are left out."""
    return DataLoader(InMemory(images), batch_size, shuffle=True, drop_last=True, collate_fn=lambda batch: batch)


def floats(images: np.ndarray, *, low: float, device: torch.device) -> Tensor:
    """uint8 -> float32 in [low, 1], on the device."""
    return torch.from_numpy(np.array(images)).to(device).to(torch.float32) / (255 / (1 - low)) + low
