"""What the processes of a training tell each other in a step besides gradients: losses, and wishes to stop or save."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ddpm.compute.hardware import sent
from ddpm.compute.processes import processes


class Exchange:
    """Adds up values of images and flags of all processes by one all-reduce per step, without waiting for a GPU."""

    def __init__(self, parts: list[slice], batch: int) -> None:
        """`parts` are the slices of the global batch of `batch` images that this process computes."""
        self._mine, self._batch = slice(parts[0].start, parts[-1].stop), batch
        self._arriving: tuple[Tensor, torch.cuda.Event] | None = None

    def __call__(self, values_of_parts: list[Tensor], flags: Sequence[bool]) -> tuple[Tensor, list[bool]]:
        """Return the values of the global batch, float32 [B,K], and for each flag whether any process set it.

        All processes return the same. On a GPU the flags are those of the call before (at first, none is set), because
        those of this call are not computed yet.
        """
        mine = torch.cat(values_of_parts)
        if processes() == 1:
            return mine, list(flags)
        count = self._batch * mine.shape[1]
        sums = mine.new_zeros(count + len(flags))
        sums[:count].view(self._batch, -1)[self._mine] = mine
        sums[count:] = sent(torch.tensor(flags, dtype=mine.dtype), mine.device)
        dist.all_reduce(sums)
        values, counts = sums[:count].view(self._batch, -1), sums[count:]
        if mine.device.type != "cuda":
            return values, [count > 0 for count in counts.tolist()]
        return values, self._swapped(counts)

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
