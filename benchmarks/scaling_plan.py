"""Plan a training on 100 million 256x256 images with 64 GPUs from measured parts and named assumptions."""

from collections.abc import Iterator
from dataclasses import dataclass

IMAGES = 100_000_000
IMAGE_BYTES = 3 * 256 * 256
GPUS, MACHINES = 64, 8
BATCH = 2048
COMPARED = 20_000  # images that are compared with all training images: 10,000 generated, evaluate.held_out_images
EPOCHS = 10
SHARD_BYTES = 1_000_000_000  # data.shard_bytes
CACHE_BYTES = 1_000_000_000_000  # runtime.cache_bytes, per machine
STREAMS = 64  # train.shuffle_shards
CHECKPOINT_SECONDS = 1800  # runtime.checkpoint_seconds
PREPARE_CORES = 256

# Not measured here.
GPU_FLOPS = 989e12
GPU_FLOAT32_FLOPS = 67e12
UTILISATION = 0.4
GPU_BYTES = 141e9
NETWORK = 100e9 / 8
DISK = 3e9
TO_HOST = 50e9


@dataclass(frozen=True)
class Measured:
    """The measured parts on this machine, in seconds, bytes, and bytes per second."""

    prepare_seconds: float
    jpeg_bytes: float
    manifest_bytes: float
    cold_read: float
    warm_read: float
    checkpoint_copy: float
    checkpoint_write: float
    order_seconds: float
    noise_seconds: float
    all_reduce: float
    compare_seconds: float
    pair_flops: int
    parameters: int
    step_flops: int
    activation_bytes: int

    def rows(self) -> list[dict[str, str]]:
        return _rows(
            ("name", "part", "measured"),
            ("`t_decode`", "`prepare`, CPU seconds per 256x256 JPEG", f"{1000 * self.prepare_seconds:.2f} ms"),
            ("`b_jpeg`", "bytes per JPEG file, quality 90, smooth noise", f"{self.jpeg_bytes / 1e3:.1f} kB"),
            ("`b_row`", "bytes of the manifest per image", f"{self.manifest_bytes:.0f} B"),
            ("`r_cold`", "speed of gathering random images of a shard, from disk", f"{self.cold_read / 1e6:.0f} MB/s"),
            ("`r_warm`", "the same, from memory", f"{self.warm_read / 1e6:.0f} MB/s"),
            ("`w_copy`", "speed of copying a state for a checkpoint", f"{self.checkpoint_copy / 1e6:.0f} MB/s"),
            ("`w_save`", "speed of writing a checkpoint, with flush", f"{self.checkpoint_write / 1e6:.0f} MB/s"),
            ("`t_order`", f"time to look up the images of a batch of {BATCH} in {IMAGES:,}", _ms(self.order_seconds)),
            ("`t_noise`", "time per normal random number, one CPU core", f"{1e9 * self.noise_seconds:.2f} ns"),
            ("`r_gloo`", "speed of an all-reduce of 134 MB, two processes, gloo", f"{self.all_reduce / 1e6:.0f} MB/s"),
            (
                "`t_pair`",
                "search for copies, CPU seconds per pair of 256x256 images, one core, in all ways",
                f"{1e6 * self.compare_seconds:.1f} µs",
            ),
            ("`F_pair`", "its FLOPs per pair (counted)", f"{self.pair_flops / 1e6:.1f} M"),
            ("`P`", "parameters of ADM's network for 256x256", f"{self.parameters / 1e6:.0f} M"),
            ("`F`", "FLOPs of its training step, per image (counted)", f"{self.step_flops / 1e12:.2f} T"),
            (
                "`A`",
                "bytes kept for its backward pass, per image, bf16 (counted)",
                f"{self.activation_bytes / 1e9:.2f} GB",
            ),
        )


def plan(measured: Measured) -> Iterator[str]:
    """Yield the sections of the page that follow the measured parts."""
    yield "## Assumptions, not measured here"
    yield table(
        _rows(
            ("name", "assumption", "value"),
            ("`N`, `E`", "images, epochs", f"{IMAGES:,}, {EPOCHS}"),
            ("`G`, `M`", "GPUs, machines", f"{GPUS}, {MACHINES}"),
            ("`B`", "global batch", f"{BATCH}"),
            ("`f`", "bf16 peak of an H200, from its data sheet", f"{GPU_FLOPS / 1e12:.0f} TFLOP/s"),
            ("`f32`", "its float32 peak, without TF32, from its data sheet", f"{GPU_FLOAT32_FLOPS / 1e12:.0f} TFLOP/s"),
            ("`u`", "share of `f`, `f32` that is reached", f"{UTILISATION:.0%}"),
            ("`m`", "memory of an H200", f"{GPU_BYTES / 1e9:.0f} GB"),
            ("`n`", "network of a machine, to the store and to other machines", f"{NETWORK / 1e9:.1f} GB/s"),
            ("`d`", "its NVMe disk, reading and writing", f"{DISK / 1e9:.0f} GB/s"),
            ("`h`", "from an H200 to pinned memory (PCIe 5)", f"{TO_HOST / 1e9:.0f} GB/s"),
            ("`q`", "images compared with all others: generated and held-out ones", f"{COMPARED:,}"),
            ("`c`", "CPU cores for `prepare`", f"{PREPARE_CORES}"),
        )
    )
    yield "## What the training needs"
    yield table(_rows(("need", "arithmetic", "result", "setting"), *_needs(measured)))


def _needs(parts: Measured) -> Iterator[tuple[str, str, str, str]]:
    data = IMAGES * IMAGE_BYTES
    speed = GPUS * GPU_FLOPS * UTILISATION / parts.step_flops
    step = BATCH / speed
    read = speed * IMAGE_BYTES / MACHINES
    weights = 4 * parts.parameters
    state = 4 * weights
    local = BATCH // GPUS
    fits = int((GPU_BYTES - 5 * weights) // parts.activation_bytes)
    gradients = 2 * (GPUS - 1) / GPUS * weights / NETWORK
    sharded = GPU_BYTES - 5 * weights / GPUS
    save = state / parts.checkpoint_write
    copy = state / GPUS / TO_HOST
    lost = CHECKPOINT_SECONDS / 2
    yield "raw files", "`N b_jpeg`", _size(IMAGES * parts.jpeg_bytes), "`data.path`"
    yield "prepared images", "`N · 3 · 256²`, uint8", _size(data), "`data.store`"
    shards = -(-data // SHARD_BYTES)
    yield "shards", f"the above / {_size(SHARD_BYTES)}", f"{shards:,}", "`data.shard_bytes`"
    yield (
        "decoded images, kept for the next preparation",
        "as large as the prepared images",
        _size(data),
        "scratch of `prepare`",
    )
    yield "manifest", "`N b_row`", _size(IMAGES * parts.manifest_bytes), ""
    yield "labels", "`8 N`, memory-mapped", _size(8 * IMAGES), ""
    yield "memory of the preparing process", "`400 N` (paths and hashes)", _size(400 * IMAGES), ""
    hours = IMAGES * parts.prepare_seconds / PREPARE_CORES / 3600
    yield "preparing time", "`N t_decode / c`", f"{hours:.1f} h", "`runtime.cluster`, `runtime.workers`"
    yield "training speed", "`G f u / F`", f"{speed:,.0f} images/s", "`runtime.processes` or torchrun"
    yield "a step", "`B F / (G f u)`", _ms(step), "`train.batch_size`"
    yield "training", "`E N F / (G f u)`", f"{EPOCHS * IMAGES / speed / 86400:.1f} days", "`train.images`"
    yield "reading, per machine", "`speed · 3 · 256² / M`", f"{read / 1e6:.0f} MB/s of `n`, `d`", "`data.store`"
    yield (
        "reading, share of `r_cold`, of `r_warm`",
        "",
        f"{read / parts.cold_read:.0%}, {read / parts.warm_read:.0%}",
        "",
    )
    yield (
        "a full copy of the images per machine",
        "",
        _size(data),
        "`runtime.cache_bytes` at least this: each shard is fetched once",
    )
    kept = CACHE_BYTES / data
    yield (
        f"fetched in every epoch with a cache of {_size(CACHE_BYTES)}",
        "`1 - cache / (N · 3 · 256²)`, shards come in random order",
        f"{1 - kept:.0%}",
        "`runtime.cache`, `runtime.cache_bytes`",
    )
    yield (
        "least cache, per machine",
        f"`2 · {STREAMS} / M` shards: those being read and the next ones",
        _size(2 * STREAMS / MACHINES * SHARD_BYTES),
        f"`train.shuffle_shards: {STREAMS}`, `runtime.cache_bytes`",
    )
    yield (
        "reading from the store, all machines",
        "`speed · 3 · 256²`",
        f"{speed * IMAGE_BYTES / 1e6:.0f} MB/s",
        "`data.store`",
    )
    yield (
        "looking up a batch, share of a step",
        "`t_order / step`",
        f"{parts.order_seconds / step:.1%}",
        "`train.shuffle_shards`",
    )
    noise = BATCH * IMAGE_BYTES * parts.noise_seconds
    yield (
        "noise of the whole batch, if sampled on one CPU core",
        "`B · 3 · 256² · t_noise`",
        _ms(noise),
        "sampled on the GPU",
    )
    yield "its memory in every process", "`4 B · 3 · 256²`", _size(4 * BATCH * IMAGE_BYTES), "`train.batch_size`"
    yield "weights, gradients, two moments, average", "`5 · 4 P`", _size(5 * weights), "`runtime.parallel: ddp`"
    yield "the same, sharded", "`5 · 4 P / G`", _size(5 * weights / GPUS), "`runtime.parallel: fsdp`"
    yield (
        "images on a GPU at a time, at most (ddp)",
        "`(m - 20 P) / A`",
        f"{fits}; {local} are needed",
        "`runtime.device_batch`",
    )
    with_fsdp = int(sharded // parts.activation_bytes)
    yield (
        "images on a GPU at a time, at most (fsdp)",
        "`(m - 20 P / G) / A`",
        f"{with_fsdp}; {local} are needed",
        ("`runtime.device_batch`"),
    )
    yield (
        "gradients between machines, not overlapped",
        "`2 (G-1)/G · 4 P / n`, a ring",
        f"{_ms(gradients)} per step",
        ("`runtime.device_batch`: one exchange per step"),
    )
    yield "the same by gloo", "`4 P / r_gloo`", _ms(weights / parts.all_reduce), "GPUs use NCCL instead"
    yield "a checkpoint", "`4 · 4 P`", _size(state), ""
    yield "the part of a process", "`16 P / G`", _size(state / GPUS), "as much memory of the host"
    yield (
        "copying it, while the training stands still",
        "`16 P / (G h)` (on CPUs `16 P / (G w_copy)`)",
        f"{_ms(copy)} ({_ms(state / GPUS / parts.checkpoint_copy)})",
        "",
    )
    yield (
        "writing all parts to one disk, while the training continues",
        "`16 P / w_save` (at `d`)",
        f"{save:.0f} s ({state / DISK:.0f} s)",
        ("`runtime.checkpoint_seconds`"),
    )
    yield (
        "share of the time that the training stands still, at one every half hour",
        f"`copy / {CHECKPOINT_SECONDS} s`",
        f"{copy / CHECKPOINT_SECONDS:.4%}",
        (f"`runtime.checkpoint_seconds: {CHECKPOINT_SECONDS}`"),
    )
    pairs = COMPARED * IMAGES
    rate = GPUS * GPU_FLOAT32_FLOPS * UTILISATION
    yield (
        "evaluation: search for copies",
        "`q N F_pair / (G f32 u)`",
        f"{pairs * parts.pair_flops / rate / 3600:.1f} h",
        "`runtime.processes` or torchrun",
    )
    cores = pairs * parts.compare_seconds / PREPARE_CORES / 86400
    yield "the same on CPU cores", "`q N t_pair / c`", f"{cores:,.0f} days", "`runtime.processes` or torchrun"
    yield "images that the search reads, once", "as large as the prepared images", _size(data), "`data.store`"
    yield (
        "memory of the search, in every process",
        "`q` images as uint8, mapped or in memory, and a piece of 128",
        _size((COMPARED + 5 * 128 * 4) * IMAGE_BYTES),
        "`evaluate.held_out_images`",
    )
    yield (
        "work lost with a machine",
        "half an interval, and the restart",
        f"{lost / 60:.0f} min · {GPUS} GPUs",
        ("`runtime.checkpoint_seconds`"),
    )


def table(rows: list[dict[str, str]]) -> str:
    """Return the rows as a Markdown table of text."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _rows(header: tuple[str, ...], *rows: tuple[str, ...]) -> list[dict[str, str]]:
    return [dict(zip(header, row, strict=True)) for row in rows]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms" if seconds < 10 else f"{seconds:,.0f} s"


def _size(n: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n >= scale:
            return f"{n / scale:,.1f} {unit}"
    return f"{n / 1e3:,.1f} kB"
