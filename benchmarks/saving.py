"""How long a training stands still for a checkpoint, and how long the thread then writes.

python benchmarks/saving.py             # the 35.7M network of Ho et al. 2020 with AdamW: 572 MB
python benchmarks/saving.py --width 32  # a small one
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import command, machine
from pipeline_profile import ROOT
from torch import nn

from ddpm.networks.unet import UNet
from ddpm.params import load as load_params
from ddpm.training.checkpoint_folder import checkpoints
from ddpm.training.checkpoint_writer import Writer
from ddpm.training.loop import State, new_state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    network = UNet(
        channels=3, size=32, classes=0, width=args.width, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,),
        head_channels=2 * args.width, dropout=0.1, embedding="add", resample="conv",
    )  # fmt: skip
    state = state_of(network.to(args.device))
    with tempfile.TemporaryDirectory(dir=ROOT / ".state" if (ROOT / ".state").is_dir() else None) as folder:
        copying, writing, size = measure(state, Path(folder), repeats=args.repeats)
    print(f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f}M parameters, {size / 1e6:.0f} MB in a checkpoint")
    print("| | median, seconds | lowest to highest |\n| --- | ---: | ---: |")
    waiting = [copy + write for copy, write in zip(copying, writing, strict=True)]
    for name, seconds in (
        ("the training stands still: the copy", copying),
        ("the thread writes, flushes and hashes", writing),
        ("both, as in a checkpoint that the training waits for", waiting),
    ):
        print(f"| {name} | {statistics.median(seconds):.3f} | {min(seconds):.3f} to {max(seconds):.3f} |")
    print(f"\n`{command()}`: {machine()}.")


def state_of(network: nn.Module) -> State:
    """Return a state with moments, as after the first step."""
    state = new_state(network, settings=load_params(ROOT / "params.yaml").train)  # type: ignore[arg-type]
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    return state


def measure(state: State, folder: Path, *, repeats: int) -> tuple[list[float], list[float], int]:
    """Return the seconds of copying and of writing, per checkpoint, and the size of one in bytes.

    The first one, which also takes the memory for the copy, is left out.
    """
    writer = Writer(folder, fingerprint="measured")
    copying, writing = [], []
    for _ in range(repeats + 1):
        _finish_queue(state)
        began = time.perf_counter()
        writer.begin(state, extra={})
        _finish_queue(state)
        copied = time.perf_counter()
        writer.finish()
        copying.append(copied - began)
        writing.append(time.perf_counter() - copied)
    return copying[1:], writing[1:], checkpoints(folder)[-1].stat().st_size


def _finish_queue(state: State) -> None:
    if next(state.network.parameters()).is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
