"""Images a second in training: this project, diffusers and denoising-diffusion-pytorch, taking turns in one process.

    python benchmarks/training.py --data MNIST --output benchmarks/results/training.md
    python benchmarks/training.py --network cifar10 --batch 128 512 --compile --output …/training_gpu.md

Against diffusers it is the same network with the same weights; of denoising-diffusion-pytorch the number of
parameters agrees within 5 %. `--data` is a folder of MNIST's files or a prepared folder; without it, digits.
Needs `make bench-setup`. `torchvision.datasets.MNIST(".state", download=True)` fetches MNIST into `.state/MNIST`.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Images, command, load_images, machine, ratio, ratios, spread, table, take_turns, write
from contenders.same_network import DiffusersSteps, LucidrainsSteps, OurSteps, Steps, count
from peaks import conv_peak, matmul_peak
from safetensors import safe_open
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ddpm.compute.hardware import choose_device
from ddpm.errors import UserError
from ddpm.networks import native_norm

OURS, AS_USED, SAME_TRICKS, LUCIDRAINS = "this project", "diffusers", "diffusers + our tricks", "lucidrains"
NAMES = (OURS, AS_USED, SAME_TRICKS, LUCIDRAINS)
TARGETS = {
    "cpu": {AS_USED: 2.0, SAME_TRICKS: 1.3, LUCIDRAINS: 2.0},
    "cuda": {SAME_TRICKS: 1.5},
}
"""Our images a second over theirs."""
TARGET_OF_PEAK = {"cuda": 0.4}
"""FLOP/s of our training over the measured bf16 matrix peak, at the better batch."""
UNETS: dict[str, dict[str, Any]] = {
    "tiny": {"sample_size": 16, "channels": 1, "widths": (32, 32), "attention": (1,)},
    # 6.5M parameters at 32x32: an evening's model on two cores.
    "mnist": {"sample_size": 32, "channels": 1, "widths": (64, 128, 128), "attention": (2,)},
    # The 35.7M network of Ho et al. 2020 (App. B), with the options of google/ddpm-cifar10-32.
    "cifar10": {
        "sample_size": 32,
        "channels": 3,
        "widths": (128, 256, 256, 256),
        "attention": (1,),
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
}
"""Widths per resolution, the levels with attention, and options of UNet2DModel."""


@dataclass(frozen=True)
class Work:
    """What every contender gets."""

    config: dict[str, Any]
    """The arguments of UNet2DModel."""
    unet: Path
    """The folder of one that was saved: the weights that this project and diffusers begin with."""
    images: np.ndarray
    batch_size: int
    device: torch.device
    compiled: bool

    def contender(self, name: str) -> Steps:
        told: dict[str, Any] = {"batch_size": self.batch_size, "device": self.device}
        torch.manual_seed(0)
        if name == LUCIDRAINS:
            return LucidrainsSteps(self.config, self.images, parameters=saved_parameters(self.unet), **told)
        if name == OURS:
            return OurSteps(self.unet, self.images, compiled=self.compiled, **told)
        tricks = name == SAME_TRICKS
        return DiffusersSteps(self.unet, self.images, tricks=tricks, compiled=tricks and self.compiled, **told)


def save_unet(config: dict[str, Any], folder: Path) -> None:
    """A UNet2DModel as it begins, in its own format."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    UNet2DModel(**config).save_pretrained(folder)


def saved_parameters(folder: Path) -> int:
    """Numbers in a saved UNet2DModel."""
    with safe_open(folder / "diffusion_pytorch_model.safetensors", framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def unet_config(name: str) -> dict[str, Any]:
    """The arguments of diffusers' UNet2DModel."""
    options = dict(UNETS[name])
    channels, widths, attention = (options.pop(key) for key in ("channels", "widths", "attention"))
    attends = [level in attention for level in range(len(widths))]
    return {
        "in_channels": channels,
        "out_channels": channels,
        "layers_per_block": 2,
        "block_out_channels": widths,
        "down_block_types": tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends),
        "up_block_types": tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)),
        **options,
    }


def fitting(images: Images, config: dict[str, Any]) -> np.ndarray:
    """The training images in the network's size and channels: grey ones become three alike where it wants colour.

    Raises UserError for images of another size.
    """
    size, channels = config["sample_size"], config["in_channels"]
    if images.train.shape[-1] != size or images.train.shape[1] not in (1, channels):
        _, c, height, width = images.train.shape
        raise UserError(
            f"{images.name} has {c} channel(s) and {height}x{width} pixels, but the network takes {channels} and "
            f"{size}x{size}; choose another --network or --data"
        )
    return np.broadcast_to(images.train, (len(images.train), channels, size, size))


def images_per_second(contender: Steps, work: Work, steps: int) -> float:
    began = time.perf_counter()
    contender.advance(steps)
    if work.device.type == "cuda":
        torch.cuda.synchronize(work.device)
    return steps * work.batch_size / (time.perf_counter() - began)


def flops_of(contender: Steps, shape: Sequence[int], device: torch.device) -> int:
    """Of convolutions and matrix products for one image [C,H,W], forward and backward.

    A multiplication and its addition count as two. Attention counts as the products that it consists of, whatever
    kernel computes it.
    """
    image = torch.zeros(1, *shape, device=device)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        contender.loss(image).backward()
    contender.network.zero_grad(set_to_none=True)
    return counter.get_total_flops()


@torch.inference_mode()
def refuse_another_network(contenders: dict[str, Steps], work: Work) -> None:
    """Raises UserError unless this project's network and diffusers' give the same output, before both are trained."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, *work.images.shape[1:], generator=generator).to(work.device)
    t = torch.tensor([1, 250, 500, 999], device=work.device)
    # `forward`, because a compiled network that is called with another batch size becomes one for any size, and slower
    ours = contenders[OURS].network.forward(x, t, None)
    theirs = contenders[AS_USED].network.forward(x, t).sample
    difference = float((ours - theirs).abs().max() / theirs.std())
    tolerance = 2e-2 if work.device.type == "cuda" else 1e-4  # on CUDA, convolutions round to TF32 by default
    if difference > tolerance:
        raise UserError(
            f"the outputs of this project's network and of diffusers' differ by {difference:.1e} of their standard "
            f"deviation, expected at most {tolerance:.0e}; the ratio would not speak of the same work"
        )


def peak_bytes(device: torch.device) -> int:
    """Of this process: what it held on a GPU, or its largest resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_of_each(arguments: list[str]) -> dict[str, int]:
    """Peak memory of each contender in a process of its own, that does nothing but train it a few steps."""
    peaks = {}
    for name in NAMES:
        alone = [sys.executable, __file__, *arguments, "--memory-of", name]
        run = subprocess.run(alone, stdout=subprocess.PIPE, text=True)
        if run.returncode:
            raise UserError(f"training {name} alone, for its peak memory, ended with {run.returncode}; see above")
        peaks[name] = json.loads(run.stdout.splitlines()[-1])["peak_bytes"]
    return peaks


def measure(work: Work, *, rounds: int, steps: int) -> tuple[dict[str, Steps], dict[str, int], dict[str, list[float]]]:
    """The contenders, their FLOP per image, and images/s of each and FLOP/s of the device in every round."""
    contenders = {name: work.contender(name) for name in NAMES}
    refuse_another_network(contenders, work)
    flops = {}
    for name, contender in contenders.items():
        flops[name] = flops_of(contender, work.images.shape[1:], work.device)
        contender.advance(2)  # what happens once: choice of kernels, compilation, buffers
    measures: dict[str, Callable[[], float]] = {
        name: lambda contender=contender: images_per_second(contender, work, steps)
        for name, contender in contenders.items()
    }
    for dtype in (torch.float32, torch.bfloat16):
        measures[f"matrix {dtype}"] = lambda dtype=dtype: matmul_peak(work.device, dtype)
        measures[f"convolution {dtype}"] = lambda dtype=dtype: conv_peak(work.device, dtype)
    return contenders, flops, take_turns(measures, rounds=rounds)


def report(work: Work, memory: dict[str, int], *, rounds: int, steps: int) -> str:
    """The tables of one batch size."""
    contenders, flops, results = measure(work, rounds=rounds, steps=steps)
    targets, target_of_peak = TARGETS.get(work.device.type, {}), TARGET_OF_PEAK.get(work.device.type)
    dtypes = dict.fromkeys(NAMES, torch.float32) | {
        SAME_TRICKS: torch.bfloat16,
        OURS: torch.bfloat16 if contenders[OURS].precision == "bf16" else torch.float32,  # type: ignore[attr-defined]
    }
    rows = []
    for name, contender in contenders.items():
        speed = [images * flops[name] for images in results[name]]
        of_peak = {kind: ratios(speed, results[f"{kind} {dtypes[name]}"]) for kind in ("matrix", "convolution")}
        of_target = f" (target {target_of_peak:.0%})" if name == OURS and target_of_peak else ""
        rows.append(
            {
                "": name,
                "images/s": f"{statistics.median(results[name]):.1f}",
                "this project over it": "" if name == OURS else ratio(results[OURS], results[name]),
                "target": f"{targets[name]:.1f}" if name in targets else "",
                "peak memory, MB": f"{memory[name] / 1e6:.0f}",
                "parameters": f"{count(contender.network):,}",
                "GFLOP/image": f"{flops[name] / 1e9:.2f}",
                "GFLOP/s": f"{statistics.median(speed) / 1e9:.0f}",
                "precision": str(dtypes[name]).removeprefix("torch."),
                "of the matrix peak": f"{statistics.median(of_peak['matrix']):.0%}{of_target}",
                "of the convolution peak": f"{statistics.median(of_peak['convolution']):.0%}",
            }
        )
    peaks = [
        {"peak, GFLOP/s": f"{kind} {dtype}".replace("torch.", ""), "median": spread([x / 1e9 for x in values], ".0f")}
        for kind, dtype, values in (
            (kind, dtype, results[f"{kind} {dtype}"])
            for kind in ("matrix", "convolution")
            for dtype in (torch.float32, torch.bfloat16)
        )
    ]
    return f"## Batch {work.batch_size}\n\n{table(rows)}\n\n{table(peaks)}"


EXPLAINED = """\
This project trains by `ddpm.training.loop`, at its default precision; diffusers by the loop of its example
`train_unconditional`; lucidrains, denoising-diffusion-pytorch, by its `Trainer`. All three average the weights,
clip the gradient and read the loss at every step. "+ our tricks": the same loop with channels_last and bf16 autocast{}.
All get their images from memory: neither peer pays for decoding files. The ratios are medians over {} rounds of {}
steps each, in which all take turns, with the smallest and the largest. Peak memory is that of a process of its own,
libraries and data included. FLOP are those of convolutions and matrix products, forward and backward;
this project's are fewer because it convolves upsampled images on the small grid. The peaks are the device's own,
measured in the same rounds; a contender is held against those of its precision."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=UNETS, default="mnist")
    parser.add_argument("--batch", type=int, nargs="+", default=[64])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--compile", action="store_true", help="this project's network and that of `+ our tricks`")
    parser.add_argument("--native-norm", action="store_true", help="this project's training, as runtime.native_norm")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3, help="of each contender in each round")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--unet", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory-of", choices=NAMES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = choose_device(args.device)
    if args.native_norm and (obstacle := native_norm.turn_on()):
        parser.error(obstacle)
    config = unet_config(args.network)
    data = load_images(args.data, size=config["sample_size"])
    images = fitting(data, config)
    with tempfile.TemporaryDirectory() as folder:
        unet = args.unet or Path(folder)
        if not args.unet:
            save_unet(config, unet)
        works = [Work(config, unet, images, batch, device, args.compile) for batch in args.batch]
        if args.memory_of:
            works[0].contender(args.memory_of).advance(3)
            print(json.dumps({"peak_bytes": peak_bytes(device)}))
            return
        text = [
            f"# Speed of training\n\nNetwork `{args.network}`, {data.name}.",
            EXPLAINED.format(", compiled" if args.compile else "", args.rounds, args.steps),
        ]
        alone = ["--network", args.network, "--device", args.device, "--unet", str(unet)]
        alone += ["--native-norm"] if args.native_norm else []
        alone += [*(["--compile"] if args.compile else []), *(["--data", str(args.data)] if args.data else [])]
        for work in works:
            memory = memory_of_each([*alone, "--batch", str(work.batch_size)])
            text.append(report(work, memory, rounds=args.rounds, steps=args.steps))
    write(args.output, "\n\n".join([*text, f"{machine(str(device))}.\n`{command()}`"]))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
