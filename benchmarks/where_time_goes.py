"""Where the time of one training step and of the whole `make run` goes, each beside its floor.

    python benchmarks/where_time_goes.py             # prints it
    python benchmarks/where_time_goes.py --write     # puts it into docs/performance.md

The floor is what the arithmetic must cost on this device: the FLOPs that torch counts, over the FLOP/s that one large
convolution and one large matrix product reach in the same run. Ratios of precisions and layouts are taken in turn.
"""

import argparse
import math
from dataclasses import replace
from typing import Any

import as_in_stages  # noqa: F401
import torch
from common import command, machine, ratios, spread, table
from generated import write_between
from pipeline_profile import ROOT, Part, profile_pipeline
from step_profile import Profile, Setting, layouts, profile_step, settings

from ddpm.compute import hardware
from ddpm.params import Params
from ddpm.params import load as load_params

BATCHES = {8: 128, 16: 64, 32: 32, 64: 8}
"""Images in a step, by their size in pixels, for the comparison of precisions."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    parser.add_argument("--steps", type=int, default=20, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison of precisions")
    parser.add_argument("--sizes", type=int, nargs="*", default=list(BATCHES), help="of the comparison of precisions")
    parser.add_argument("--train-images", type=int, help="in the pipeline (default: as in params.yaml)")
    args = parser.parse_args()
    params = load_params(ROOT / "params.yaml")
    device = hardware.choose_device("auto")

    profiles = [profile_step(setting, params, device, n=args.steps) for setting in settings(params)]
    sections = [
        "## One training step",
        *(_step(profiled) for profiled in profiles),
        "## Precision and layout by size",
        _precisions(params, device, sizes=args.sizes, n=max(2, args.steps // 4), rounds=args.rounds),
        "## The whole pipeline",
        _pipeline(params, profiles[0], train_images=args.train_images),
        f"`{command()}`: {machine(str(device))}, {torch.get_num_threads()} threads.",
    ]
    text = "\n\n".join(sections)
    print(text)
    if args.write:
        write_between(ROOT / "docs" / "performance.md", "where_time_goes", text)


def _step(profiled: Profile) -> str:
    rows = [
        {"part": name, "ms": f"{1000 * seconds:.2f}", "share": f"{seconds / profiled.seconds:.1%}"}
        for name, seconds in profiled.by_group.items()
    ]
    rows.append({"part": "**a step**", "ms": f"{1000 * profiled.seconds:.2f}", "share": "100 %"})
    floor = f"{1000 * profiled.floor:.2f}"
    rows.append({"part": "**the floor**", "ms": floor, "share": f"{profiled.floor / profiled.seconds:.1%}"})
    flops = profiled.convolution_flops + profiled.other_flops
    return (
        f"### {profiled.setting.name}, batch {profiled.setting.batch}, {profiled.precision}\n\n{table(rows)}\n\n"
        f"{flops / 1e9:.2f} GFLOP per step, {profiled.convolution_flops / flops:.0%} of them in convolutions; measured "
        f"peaks {profiled.convolution_peak / 1e9:.0f} GFLOP/s (convolution) and {profiled.matmul_peak / 1e9:.0f} "
        f"GFLOP/s (matrix product); {profiled.setting.batch / profiled.seconds:.0f} images/s."
    )


def _precisions(params: Params, device: torch.device, *, sizes: list[int], n: int, rounds: int) -> str:
    """Return images/s relative to float32 with contiguous tensors in the same round: median (lowest to highest)."""
    network = replace(params.network, multipliers=(1, 2, 2), attention=())
    rows = []
    for size in sizes:
        speeds = layouts(Setting(f"{size}", size, 3, BATCHES[size], network), params, device, n=n, rounds=rounds)
        first, *others = speeds
        row: dict[str, str] = {"pixels, batch": f"{size}, {BATCHES[size]}"}
        row[f"{first}: images/s"] = f"{sorted(speeds[first])[rounds // 2]:.0f}"
        row |= {name: spread(ratios(speeds[name], speeds[first])) for name in others}
        rows.append(row | {"`precision: auto`": hardware.choose_precision("auto", device, size)})
    return (
        f"Width {params.network.width}, multipliers [1, 2, 2], colour. Columns 3 to 5: images/s relative to column 2 "
        f"in the same round, median (lowest to highest).\n\n{table(rows)}"
    )


def _pipeline(params: Params, step: Profile, *, train_images: int | None) -> str:
    changes: dict[str, dict[str, Any]] = {}
    if train_images:
        changes["train"] = {"images": train_images, "warmup_images": 0, "decay_images": train_images // 2}
    parts, seconds = profile_pipeline(changes)
    floor = math.ceil((train_images or params.train.images) / params.train.batch_size) * step.floor

    def row(part: Part) -> dict[str, str]:
        return {
            "part": part.name,
            "s": f"{part.seconds:.1f}",
            "importing": f"{part.importing:.1f}",
            "working": f"{part.seconds - part.importing:.1f}",
            "floor": f"{floor:.1f}" if part.name == "train" else "",
        }

    rows = [row(part) for part in parts]
    rest = seconds - sum(part.seconds for part in parts)
    rows.append({"part": "starting processes", "s": f"{rest:.1f}", "importing": "", "working": "", "floor": ""})
    importing = sum(part.importing for part in parts)
    total = {"part": "**`make run`**", "s": f"{seconds:.1f}", "importing": f"{importing:.1f}"}
    rows.append(total | {"working": f"{seconds - importing:.1f}", "floor": f"{floor:.1f}"})
    note = "Seconds from an empty folder, with the environment installed. The floor covers the training steps only."
    return f"{note}\n\n{table(rows)}"


if __name__ == "__main__":
    main()
