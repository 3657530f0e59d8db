"""Images a second at equal or better FID: this project's default sampler beside the peers' own fast samplers.

    python benchmarks/sampling.py --data MNIST --output benchmarks/results/sampling.md

Each draws with its own model, trained for the same time (benchmarks/time_to_fid.py leaves them in `--models`; what is
missing there is trained). Then this project draws with the weights of diffusers' model, so that the ratio speaks of
sampler and code alone. Of a peer's settings the cheapest counts whose FID is at most that of ours or, where none
reaches it, the cheapest that is as good as its best. At last the served champion answers requests for one image.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch
from common import Images, command, load_images, machine, ratio, table, take_turns, write
from contenders import EMA, Contender, Draw, Setting, same_weights
from contenders.kept import NAMES, add_arguments, make_contender, params_for, train, trained_before
from contenders.measured import AS_GOOD, Tried, better_weights, cheapest, final
from judge import Judge, train_judge
from served import Answers, ask_for_images

from ddpm.compute.hardware import choose_device
from ddpm.compute.settings import Runtime
from ddpm.generation.recipe import recipe_in

TARGET, SECONDS = 3.0, 0.5
"""Images a second over a peer's; seconds until an answer."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: who draws, how, and what FID that has."""

    name: str
    draw: Draw
    tried: Tried

    def speed(self, n: int) -> Callable[[], float]:
        """Images a second over n images."""

        def measure() -> float:
            began = time.monotonic()
            self.draw(n, 0, self.tried.chosen)
            return n / (time.monotonic() - began)

        return measure


def prepare(contender: Contender, images: Images, args: argparse.Namespace) -> tuple[Path, list[str]]:
    """The folder of its training, made now where there is none of these data, and the names of its final weights."""
    folder = args.models / contender.name
    trained = trained_before(folder, data=images.name)
    if trained is None:
        trained = train(contender, images, seconds=60 * args.minutes, folder=folder)
    return folder, final(trained.weights)


def peer_side(
    contender: Contender, folder: Path, weights: list[str], judge: Judge, *, n: int, first: int, target: float
) -> tuple[Side, str]:
    """The peer with its better weights and the cheapest setting that reaches the target; the weights' name."""
    best, _, _ = better_weights(contender, folder, weights, judge, first=first)
    draw = contender.drawer(folder, best)
    return Side(contender.name, draw, cheapest(draw, contender.ladder, judge, n=n, target=target)), best


def same_weights_sides(
    peer: Side, folder: Path, default: Setting, runtime: Runtime, judge: Judge, *, n: int
) -> tuple[Side, Side]:
    """Ours with diffusers' weights at the cheapest setting no worse than diffusers at its best; and diffusers there."""
    ladder = tuple(peer.tried.fids)
    fids = peer.tried.fids
    good_enough = AS_GOOD * min(fids.values())
    theirs = Tried(fids, next(setting for setting in ladder if fids[setting] <= good_enough))
    draw = same_weights.drawer(folder, runtime)
    ours = cheapest(draw, same_weights.ladder(default), judge, n=n, target=theirs.fid)
    return Side("ours, its weights", draw, ours), Side(peer.name, peer.draw, theirs)


def compared(pairs: list[tuple[Side, Side]], *, n: int, rounds: int) -> list[dict[str, str]]:
    """A line for every pair, of speeds measured in turn."""
    rows = []
    for ours, theirs in pairs:
        ours.draw(8, 0, ours.tried.chosen), theirs.draw(8, 0, theirs.tried.chosen)
        speeds = take_turns({"ours": ours.speed(n), "theirs": theirs.speed(n)}, rounds=rounds)
        rows.append(
            {
                "ours": f"{ours.name}: {ours.tried.chosen.name}",
                "theirs": f"{theirs.name}: {theirs.tried.chosen.name}",
                "FID, ours": f"{ours.tried.fid:.3f}",
                "FID, theirs": f"{theirs.tried.fid:.3f}",
                "images/s, ours": f"{statistics.median(speeds['ours']):.1f}",
                "images/s, theirs": f"{statistics.median(speeds['theirs']):.1f}",
                "evaluations": f"{ours.tried.chosen.evaluations} : {theirs.tried.chosen.evaluations}",
                f"ratio (target {TARGET:g})": ratio(speeds["ours"], speeds["theirs"]),
            }
        )
    return rows


def tried_rows(sides: list[Side]) -> list[dict[str, str]]:
    """Every setting that was tried, with its FID."""
    return [
        {
            "who": side.name,
            "setting": setting.name,
            "evaluations": str(setting.evaluations),
            "FID": f"{fid:.3f}",
            "chosen": "yes" if setting == side.tried.chosen else "",
        }
        for side in sides
        for setting, fid in side.tried.fids.items()
    ]


def answered(answers: Answers, threads: int) -> str:
    """What the server did, as sentences."""
    first, rest = answers.asked[0], answers.asked[1:] or answers.asked
    return (
        f"The served champion (`mlflow models serve`, {threads} threads) was ready after {answers.start:.1f} s. One "
        f"{answers.size}x{answers.size} image took {first:.3f} s at first, then {statistics.median(rest):.3f} s "
        f"(median of {len(rest)}, slowest {max(rest):.3f} s); the target is {SECONDS:g} s."
    )


def main() -> None:
    args = parse()
    images = load_images(args.data, size=32 if args.data else 8)
    params = params_for(images, args.params, args.recipe)
    ours, *peers = (make_contender(name, params) for name in ["ours", *args.peers])
    folders = {contender.name: prepare(contender, images, args) for contender in [ours, *peers]}

    judge = train_judge(images, seen=args.judge_images)
    own = ours.drawer(folders[ours.name][0], EMA)
    side = Side(ours.name, own, cheapest(own, ours.ladder, judge, n=args.images, target=inf))
    sides, pairs = [side], []
    for contender in peers:
        folder, weights = folders[contender.name]
        peer, best = peer_side(
            contender, folder, weights, judge, n=args.images, first=args.first, target=side.tried.fid
        )
        sides.append(peer)
        pairs.append((side, peer))
        if contender.name == "diffusers" and args.same_weights:
            pairs.append(same_weights_sides(peer, folder / best, ours.default, params.runtime, judge, n=args.images))
            sides.append(pairs[-1][0])
    rows = compared(pairs, n=args.speed_images, rounds=args.rounds)
    lines = [
        "# Images a second at equal or better FID",
        f"{images.name}; models trained for as long each. FID of {args.images:,} images against {len(images.test):,} "
        f"held-out real ones, by the judge of `benchmarks/judge.py`. Speeds are of {args.speed_images} images, "
        f"{args.rounds} rounds in turn; ratios are medians of the rounds', with their range.",
        table(rows) if rows else "",
        table(tried_rows(sides)),
    ]
    if args.requests:
        threads = os.cpu_count() or 1 if args.threads is None else args.threads
        model = folders[ours.name][0] / f"{EMA}.safetensors"
        answers = ask_for_images(
            model.resolve(),
            recipe=recipe_in(params.sample, params.runtime.precision),
            requests=args.requests,
            threads=threads,
        )
        lines.append(answered(answers, threads))
    lines += [f"{machine(str(choose_device('auto')))}; {torch.get_num_threads()} threads of torch.", f"`{command()}`"]
    write(args.output, "\n\n".join(line for line in lines if line))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--peers", nargs="*", choices=NAMES[2:], default=NAMES[2:])
    parser.add_argument("--speed-images", type=int, default=256, help="for each measurement of a speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--same-weights", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--requests", type=int, default=21, help="to the served model; 0: serve none")
    parser.add_argument("--threads", type=int, help="of the served model; default: one per core")
    return parser.parse_args()


if __name__ == "__main__":
    main()
