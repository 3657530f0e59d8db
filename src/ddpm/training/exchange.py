"""What the processes of a training tell each other in a step besides gradients: losses, and wishes to stop or save."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ddpm.compute.hardware import sent
from ddpm.compute.processes import processes


class Exchange:
    """Adds up the losses and flags of all processes by one all-reduce per step, without waiting for a GPU."""

    def __init__(self, parts: list[slice], batch: int) -> None:
        """`parts` are the slices of the global batch of `batch` images that this process computes."""
        self._mine, self._batch = slice(parts[0].start, parts[-1].stop), batch
        self._arriving: tuple[Tensor, torch.cuda.Event] | None = None

    def __call__(self, losses_of_parts: list[Tensor], flags: Sequence[bool]) -> tuple[Tensor, list[bool]]:
        """Return the losses of the global batch, float32 [B], and for each flag whether any process set it.

        All processes return the same. On a GPU the flags are those of the call before (at first, none is set), because
        those of this call are not computed yet.
        """
        mine = torch.cat(losses_of_parts)
        if processes() == 1:
            return mine, list(flags)
        values = mine.new_zeros(self._batch + len(flags))
        values[self._mine] = mine
        values[self._batch :] = sent(torch.tensor(flags, dtype=mine.dtype), mine.device)
        dist.all_reduce(values)
        losses, counts = values[: self._batch], values[self._batch :]
        if mine.device.type != "cuda":
            return losses, [count > 0 for count in counts.tolist()]
        return losses, self._swapped(counts)

    def _swapped(self, counts: Tensor) -> list[bool]:
        """Start copying these counts to the host; return the flags of those before, for which this waits at most."""
        before, copy, copied = self._arriving, torch.empty(len(counts), pin_memory=True), torch.cuda.Event()
        copy.copy_(counts, non_blocking=True)
        copied.record()
        self._arriving = copy, copied
        if before is None:
            return [False] * len(counts)
        arrived, event = before
        event.synchronize()
        return [count > 0 for count in arrived.tolist()]
