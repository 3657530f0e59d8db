"""A copy of tensors in the host's memory, from which they are written while the originals change."""

import torch
from torch import Tensor


class Snapshot:
    """Copies of tensors on the CPU, contiguous. The memory is used again by the next copy, so there is only one."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        """The copies by name; complete after `wait`."""
        self._copied: torch.cuda.Event | None = None

    def take(self, tensors: dict[str, Tensor]) -> None:
        """Begin to copy the tensors. Operations that are queued after this call do not change the copies.

        Copies from a GPU go to pinned memory in the order of the current stream, so that the next step of the training
        begins on the GPU when they are done, and the host does not wait.
        """
        before, self.tensors, self._copied = self.tensors, {}, None
        for name, tensor in tensors.items():
            place = before.pop(name, None)
            if place is None or (place.shape, place.dtype) != (tensor.shape, tensor.dtype):
                place = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self.tensors[name] = place.copy_(tensor, non_blocking=tensor.is_cuda)
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._copied = torch.cuda.Event()
            self._copied.record()

    def wait(self) -> None:
        """Wait until the copies are complete; any thread may call this."""
        if self._copied is not None:
            self._copied.synchronize()
