"""What the machine does: `runtime` in params.yaml."""

from typing import Literal

from ddpm.settings import require, require_named, require_positive, section

Precision = Literal["auto", "float32", "bf16"]


@section
class Runtime:
    """What the machine does; nothing is built anew for it."""

    device: Literal["auto", "cuda", "mps", "cpu"]
    precision: Precision
    compile: bool
    """Train the network as torch.compile makes it: a minute or more at the start; meant for GPUs. Needs Triton
    there, a C++ compiler on a CPU."""
    workers: int
    """Processes that decode images on this machine; 0 is one per core."""
    cluster: str | None
    """Address of the Dask scheduler whose workers prepare the images; null: a local cluster where it pays."""
    processes: int
    """That train, sample and extract features together; 0 is one per GPU, and one on a CPU. A launcher above the
    stage (torchrun) decides instead."""
    parallel: Literal["ddp", "fsdp"]
    """What each of them holds in training: the whole network, or its share of one that does not fit."""
    device_batch: int | None
    """Images of a training step on a device at a time, the gradients of which are accumulated; null is all."""
    sample_batch: int
    """Images generated at a time."""
    resume: Literal["auto", "never", "required"]
    """From the last checkpoint of the same parameters, data and code: auto where there is one, required or stop."""
    checkpoint_seconds: float
    deterministic: bool
    """A GPU computes with deterministic kernels only, so that a training repeats and resumes bit by bit."""
    progress: bool
    cache: str
    """Folder of the shards that were fetched from data.store, shared by all processes of this machine."""
    cache_bytes: int
    """The most that it holds; the least recently used shard makes room."""

    def __post_init__(self) -> None:
        require_positive(self, "sample_batch", "checkpoint_seconds", "cache_bytes")
        for key in ("workers", "processes"):
            require(getattr(self, key) >= 0, f"{key} is {getattr(self, key)}, expected 0 or above")
        if self.device_batch is not None:
            require_positive(self, "device_batch")
        require_named(self, "cache")
        require(
            self.cluster is None or "://" in self.cluster,
            f"cluster is {self.cluster!r}, expected an address such as tcp://host:8786, or null",
        )
