"""FID after equal time: this project, diffusers and denoising-diffusion-pytorch train on the same images for as long.

    python benchmarks/time_to_fid.py --data MNIST --output benchmarks/results/time_to_fid.md
    python benchmarks/time_to_fid.py --data MNIST --contenders ours --seeds 0 1 2 --minutes 60 --snapshots 10 30

Setting up and first steps count, as users wait for them; evaluating does not. Two judges measure all, against held-out
real images (judge.py); the floor of each is the FID of as many real training images. Both kinds of a peer's weights,
raw and averaged, draw a few images first, and those that are better by the first judge draw the rest. `--data` is a
folder of MNIST's files or a prepared folder; without it, the embedded digits. Weights stay in `--models`, where
benchmarks/sampling.py finds them.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import SHOWN, Images, command, load_images, machine, save_pictures, spread, table, write
from contenders import EMA, RAW, Contender
from contenders.kept import NAMES, Trained, add_arguments, make_contender, params_for, train, trained_before
from contenders.measured import Measured, final, measure
from judge import DIM, JUDGES, Judge, train_judge

from ddpm.compute.hardware import choose_device


def real_images(images: Images, n: int) -> np.ndarray:
    """n training images drawn without repetition, as the floor is made of: uint8 [n,C,H,W]."""
    rows = np.random.default_rng(0).permutation(len(images.train))[:n]
    return images.train[np.sort(rows)]


@dataclass(frozen=True)
class Bench:
    """A judge and its floor: the FID of as many real training images."""

    judge: Judge
    floor: float


def row(contender: Contender, trained: Trained, measured: Measured, benches: list[Bench]) -> dict[str, str]:
    """One line of the table."""

    def shown(name: str) -> str:
        return f"{measured.first[name]:.2f}" if name in measured.first else ""

    return {
        "contender": contender.name,
        "images seen": f"{trained.images_seen:,}",
        "images/s": f"{trained.images_seen / trained.seconds:.1f}",
        "FID raw (first)": shown(RAW),
        "FID EMA (first)": shown(EMA),
        "FID": f"{measured.fid:.3f}",
        **{f"FID / floor, {b.judge.name}": f"{b.judge.fid(measured.all) / b.floor:.2f}" for b in benches},
        "seconds": f"{trained.seconds:.0f}",
        "weights": measured.weights,
        "sampler": contender.default.name,
    }


def snapshot_rows(
    contender: Contender, folder: Path, trained: Trained, benches: list[Bench], *, n: int, first: int
) -> list[dict[str, str]]:
    """A line for every state of the average on the way; its learning rate had not decayed yet."""
    rows = []
    for name in sorted(set(trained.weights) - {RAW, EMA}, key=trained.weights.index):
        there = measure(contender, folder, [name], benches[0].judge, n=n, first=first)
        blank = dict.fromkeys(("images seen", "images/s", "FID raw (first)", "FID EMA (first)", "seconds"), "")
        rows.append(row(contender, trained, there, benches) | blank)
    return rows


def ratios(fids: dict[str, float]) -> str:
    """How the FID of each peer compares with this project's, as one sentence."""
    peers = [f"{name} {fid / fids['ours']:.2f}" for name, fid in fids.items() if not name.startswith("ours")]
    return f"FID of the peers over that of ours: {', '.join(peers)}." if peers and "ours" in fids else ""


def over_seeds(rows: list[dict[str, str]]) -> str:
    """The spread of this project's FID over its training seeds, as one sentence for each judge; empty for one seed."""
    ours = [row for row in rows if row["contender"].startswith("ours") and row["seconds"]]
    columns = [name for name in rows[0] if name.startswith("FID / floor")] if len(ours) > 1 else []
    return "\n".join(
        f"{column}, of ours over {len(ours)} training seeds: {spread([float(row[column]) for row in ours])}."
        for column in columns
    )


def report(
    args: argparse.Namespace,
    images: Images,
    benches: list[Bench],
    rows: list[dict[str, str]],
    contenders: list[Contender],
    fids: dict[str, float],
) -> str:
    device, first = str(choose_device("auto")), benches[0].judge
    judges = "; ".join(
        f"`{b.judge.name}`, right in {100 * b.judge.accuracy:.2f} % of the held-out images, floor {b.floor:.4f}"
        for b in benches
    )
    lines = [
        f"# FID after {args.minutes:g} minutes of {'processor time in ' if args.cpu_time else ''}training",
        f"{images.name}: {len(images.train):,} training images. FID of {args.images:,} generated images against "
        f"{len(images.test):,} held-out real ones, by the judges of `benchmarks/judge.py`, each with {DIM} features "
        f"and trained on {first.images:,} images: {judges}. The floor is the FID of as many real training images, "
        f"measured the same way. Column FID is by `{first.name}`; columns with (first) are of the first "
        f"{args.first:,} images and choose the peers' better weights.",
        table(rows),
        ratios(fids),
        over_seeds(rows),
        "\n".join(f"- **{contender.name}**: {contender.choices()}" for contender in contenders),
        f"{machine(device)}; {torch.get_num_threads()} threads of torch.",
        f"`{command()}`",
    ]
    return "\n\n".join(line for line in lines if line)


def main() -> None:
    args = parse()
    images = load_images(args.data, size=32 if args.data else 8)
    args.images = min(args.images, len(images.train))
    args.first = min(args.first, args.images)
    params = params_for(images, args.params, args.recipe)
    snapshots = tuple(60 * minutes for minutes in args.snapshots)
    contenders = [
        make_contender(name, params, seed=seed, snapshots=snapshots)
        for name in args.contenders
        for seed in (args.seeds if name.startswith("ours") else args.seeds[:1])
    ]

    clock = time.process_time if args.cpu_time else time.monotonic
    trainings = []
    for contender in contenders:
        folder = args.models / contender.name
        before = trained_before(folder, data=images.name) if args.reuse else None
        trainings.append(before or train(contender, images, seconds=60 * args.minutes, folder=folder, clock=clock))
        done = trainings[-1]
        print(f"{contender.name}: {done.images_seen:,} images in {done.seconds:.0f} s", flush=True)

    judges = [train_judge(images, name, seen=args.judge_images) for name in JUDGES]
    benches = [Bench(judge, judge.fid(real_images(images, args.images))) for judge in judges]
    if args.pictures:
        save_pictures(args.pictures, {"real": real_images(images, SHOWN)})
    rows, fids = [], {}
    for contender, done in zip(contenders, trainings, strict=True):
        folder, count = args.models / contender.name, {"n": args.images, "first": args.first}
        measured = measure(contender, folder, final(done.weights), judges[0], **count)
        if args.pictures:
            save_pictures(args.pictures, {f"{contender.name}_{name}": m for name, m in measured.images.items()})
        rows.append(row(contender, done, measured, benches))
        rows += snapshot_rows(contender, folder, done, benches, **count)
        fids[contender.name] = measured.fid
        print(
            f"{contender.name}: FID {measured.fid:.3f}, {measured.fid / benches[0].floor:.2f} times the floor",
            flush=True,
        )
    write(args.output, report(args, images, benches, rows, contenders, fids))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--contenders", nargs="+", choices=NAMES, default=["ours", "diffusers", "lucidrains"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of training; the peers train once")
    parser.add_argument("--snapshots", type=float, nargs="+", default=[], help="minutes; ours only, of its average")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count this process's time on all cores, whatever else the machine does"
    )
    parser.add_argument("--reuse", action="store_true", help="measure what is in --models instead of training again")
    parser.add_argument("--pictures", type=Path, help="a folder for grids of drawn images")
    return parser.parse_args()


if __name__ == "__main__":
    main()
