"""The parts of a large training, each measured small, and what they come to for 100 million 256x256 images.

python benchmarks/scaling_parts.py             # prints it
python benchmarks/scaling_parts.py --write     # puts it into docs/scaling.md
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import command, machine
from generated import write_between
from pipeline_profile import ROOT
from ruamel.yaml import YAML
from saving import measure, state_of
from scaling_plan import Measured, plan, table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ddpm.data.manifest import parts
from ddpm.measuring.memorization import compared_numbers, find_copies_in_every_way
from ddpm.networks.unet import UNet
from ddpm.params import load as load_params

SIZE = 256
# The class-conditional ImageNet 256x256 network of Dhariwal and Nichol 2021, Tab. 4 and its code.
LARGE: dict[str, Any] = {
    "channels": 3,
    "size": SIZE,
    "classes": 1000,
    "width": 256,
    "multipliers": (1, 1, 2, 2, 4, 4),
    "blocks": 2,
    "attention": (32, 16, 8),
    "head_channels": 64,
    "dropout": 0.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/scaling.md")
    parser.add_argument("--jpegs", type=int, default=2000, help="256x256 files that are prepared")
    parser.add_argument("--bytes", type=int, default=1 << 30, help="of the shard that is read")
    parser.add_argument("--width", type=int, default=128, help="of the network whose state is saved")
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(dir=ROOT / ".state" if (ROOT / ".state").is_dir() else None) as temporary:
        folder = Path(temporary)
        prepare_seconds, jpeg_bytes, manifest_bytes = _prepare(folder / "prepare", args.jpegs)
        cold, warm = _read(folder / "shard.npy", args.bytes)
        copy, write = _checkpoint(folder / "checkpoints", args.width)
        all_reduce = _all_reduce(folder)
    parameters, flops, activations = _large_network()
    measured = Measured(
        prepare_seconds=prepare_seconds,
        jpeg_bytes=jpeg_bytes,
        manifest_bytes=manifest_bytes,
        cold_read=cold,
        warm_read=warm,
        checkpoint_copy=copy,
        checkpoint_write=write,
        order_seconds=_order(images=100_000_000, shard_images=10**9 // (3 * SIZE**2), batch=2048),
        noise_seconds=_noise(),
        all_reduce=all_reduce,
        compare_seconds=_compare(),
        pair_flops=2 * compared_numbers((3, SIZE, SIZE)),
        parameters=parameters,
        step_flops=flops,
        activation_bytes=activations,
    )
    footer = f"`{command()}`: {machine()}."
    text = "\n\n".join(["## Measured parts", table(measured.rows()), footer, *plan(measured)])
    print(text)
    if args.write:
        write_between(ROOT / "docs" / "scaling.md", "scaling_parts", text)


def _prepare(folder: Path, n: int) -> tuple[float, float, float]:
    """Of the stage `prepare`: CPU seconds per image, bytes per JPEG file, bytes of the manifest per image.

    What `n` images cost more than a tenth of them: starting is no part of it.
    """
    few, many = _prepared(folder / "few", n // 10), _prepared(folder / "many", n)
    seconds, jpegs, manifest = ((more - less) / (n - n // 10) for less, more in zip(few, many, strict=True))
    return seconds, jpegs, manifest


def _prepared(folder: Path, n: int) -> tuple[float, float, float]:
    """CPU seconds, bytes of all JPEG files and of the manifest, for `n` images."""
    from PIL import Image

    raw, prepared = folder / "data" / "raw", folder / "data" / "prepared"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for k in range(n):
        coarse = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        picture.save(raw / f"{k:06d}.jpg", quality=90)
    jpegs = sum(path.stat().st_size for path in raw.iterdir())
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["data"] |= {"source": "folder", "labels": False}
    params["runtime"] |= {"workers": 1, "progress": False}
    yaml.dump(params, folder / "params.yaml")
    told = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]["prepare"]["cmd"]
    stage = [sys.executable, *told.split()[1:]]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(stage, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    manifest = sum(part.stat().st_size for part in parts(prepared))
    shutil.rmtree(folder)
    return seconds, jpegs, manifest


def _read(path: Path, n_bytes: int) -> tuple[float, float]:
    """Bytes/s of gathering 256x256 images in random order from a memory-mapped shard: from disk, from memory."""
    n = n_bytes // (3 * SIZE**2)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (n, 3, SIZE, SIZE)}
        )
        piece = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8).tobytes()
        for _ in range(n):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    speeds = []
    order = np.random.default_rng(1).permutation(n)
    for _ in ("cold", "warm"):
        images = np.load(path, mmap_mode="r")
        began = time.perf_counter()
        for start in range(0, n, 32):
            images[order[start : start + 32]]
        speeds.append(n * 3 * SIZE**2 / (time.perf_counter() - began))
    path.unlink()
    return speeds[0], speeds[1]


def _checkpoint(folder: Path, width: int) -> tuple[float, float]:
    """Bytes/s of copying weights, average and both moments, and of writing, flushing and hashing the copy."""
    network = UNet(**LARGE | {"width": width, "attention": (), "multipliers": (1, 2, 2)})
    (copying,), (writing,), size = measure(state_of(network), folder, repeats=1)
    return size / copying, size / writing


def _order(*, images: int, shard_images: int, batch: int) -> float:
    """Seconds in which the images of one global batch are found, over a stretch of consecutive batches."""
    from ddpm.training.order import make_order

    sizes = [shard_images] * (images // shard_images)
    order = make_order(sizes, seed=0, shuffle_shards=load_params(ROOT / "params.yaml").train.shuffle_shards)
    order.indices(np.arange(batch))
    began = time.perf_counter()
    for step in range(1, 51):
        order.indices(np.arange(step * batch, (step + 1) * batch))
    return (time.perf_counter() - began) / 50


def _noise() -> float:
    """Seconds to draw one normal number on one core; every process draws those of the whole batch."""
    torch.manual_seed(0)
    n = 1 << 24
    began = time.perf_counter()
    torch.randn(n)
    return (time.perf_counter() - began) / n


def _compare(items: int = 340, train: int = 256) -> float:
    """CPU seconds per pair of 256x256 images of the search for copies, on one core; features cost little beside it."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (n, 3, SIZE, SIZE), dtype=np.uint8) for n in (items // 2, items // 2, train)]
    features = np.zeros((items // 2, 1), np.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began = time.process_time()
    find_copies_in_every_way(
        (images[0], images[1], images[2]),
        (features, features),
        lambda start, piece: np.zeros((len(piece), 1), np.float32),
        quantile=0.01,
        device=torch.device("cpu"),
        progress=False,
    )
    seconds = time.process_time() - began
    torch.set_num_threads(threads)
    return seconds / (items * train)


def _all_reduce(folder: Path, n_bytes: int = 1 << 27) -> float:
    """Bytes/s of a gradient's mean over two processes of this machine, by gloo."""
    told = folder / "all_reduce"
    torch.multiprocessing.spawn(_all_reduce_worker, args=(str(folder / "meeting"), str(told), n_bytes), nprocs=2)
    return float(told.read_text())


def _all_reduce_worker(rank: int, meeting: str, told: str, n_bytes: int) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    gradient = torch.ones(n_bytes // 4)
    dist.all_reduce(gradient)
    began = time.perf_counter()
    for _ in range(3):
        dist.all_reduce(gradient)
    if rank == 0:
        Path(told).write_text(str(3 * n_bytes / (time.perf_counter() - began)))
    dist.destroy_process_group()


def _large_network() -> tuple[int, int, int]:
    """Parameters; FLOPs and bytes kept for the backward pass, per image of one step: counted, nothing is computed."""
    with torch.device("meta"):
        network: nn.Module = UNet(**LARGE)
        x, t, labels = torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1), torch.zeros(1, dtype=torch.long)
    own = {id(parameter) for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in own and tensor.untyped_storage()._cdata not in kept:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with (
        FlopCounterMode(display=False) as counted,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        network(x, t, labels).sum().backward()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    # Storages of weights that were saved as views are no activations; bf16 halves what float32 takes.
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    activations = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights)
    return parameters, counted.get_total_flops(), activations // 2


if __name__ == "__main__":
    main()
