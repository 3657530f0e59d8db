"""The settings of the machine: section `runtime` of params.yaml."""

from typing import Literal

from ddpm.settings import require, require_named, require_positive, section

Precision = Literal["auto", "float32", "bf16"]


@section
class Runtime:
    """How and where the stages compute; a change reruns no stage."""

    device: Literal["auto", "cuda", "mps", "cpu"]
    """auto: CUDA if there is a GPU, else MPS, else the CPU."""
    precision: Precision
    """Numbers of the network's arithmetic. auto: bf16 where this machine computes it faster, else float32."""
    compile: bool | Literal["auto"]
    """Compile the network for training with torch.compile, which takes a minute or more. auto: on CUDA. Needs Triton on
    a GPU, a C++ compiler on a CPU."""
    native_norm: bool
    """Compile group normalisation for this CPU, used in training in bf16, which takes a second and makes a step faster;
    it changes results by rounding. Without a C++ compiler (the variable CXX, else c++) a sentence says so, and torch's
    operations are used as with false."""
    workers: int
    """Number of processes that decode images on this machine; 0: one per core."""
    cluster: str | None
    """Address of the Dask scheduler whose workers prepare the images; null: a local cluster if it is faster."""
    processes: int
    """Number of processes that train, sample, extract features and search for copies together; 0: one per GPU, or one
    on a CPU. An external launcher (torchrun) overrides it."""
    parallel: Literal["ddp", "fsdp", "hybrid"]
    """ddp: each process has the whole network in training. fsdp: each has a part of a network that does not fit.
    hybrid: the processes of each machine share one network, so that machines exchange gradients only."""
    gradients: Literal["float32", "bf16"]
    """Numbers in which processes exchange gradients in training; bf16 is half of the bytes, rounded to 8 bits."""
    device_batch: int | None
    """Number of images on a device at a time in a training step; gradients are accumulated. null: all."""
    sample_batch: int
    """Number of images generated at a time."""
    resume: Literal["auto", "never", "required"]
    """Continue from the last checkpoint of the same parameters, data and code. auto: if there is one; required: stop if
    there is none; never: start from the beginning."""
    checkpoint_seconds: float
    """Time between two checkpoints: at most this much work is lost, and what is done while one is written."""
    deterministic: bool
    """Use only deterministic kernels on a GPU, so that a training repeats and resumes bit by bit."""
    progress: bool
    """Show progress bars."""
    cache: str
    """Folder for the shards fetched from data.store, shared by all processes of this machine."""
    cache_bytes: int
    """Largest size of the cache; the least recently used shards are removed first."""

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
