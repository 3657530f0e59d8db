"""What a few hundred pictures give: FID and copies of models trained on 25 tiles of each of 20 kinds.

    python benchmarks/few.py --tiles captioned-tiles.zip --minutes 30 --cpu-time --output benchmarks/results/few.md
    python benchmarks/few.py --tiles captioned-tiles.zip --minutes 10 --cpu-time --start MODEL.safetensors

The tiles are those of Dungeon Crawl Stone Soup, with captions; a kind is the first two words of a caption. Of the 25,
20 are for training, and 5 are held out to measure copies. Two judges (judge.py) learn from half of the other tiles of
these kinds and compare with the other half. `--start` is the model whose weights the training starts from.
"""

import argparse
import io
import json
import time
import zipfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import Images, add_training_arguments, command, machine, save_pictures, table, write
from contenders import EMA, Budget
from contenders.kept import ROOT
from contenders.ours import Ours
from judge import JUDGES, Judge, train_judge
from PIL import Image

from ddpm import model_file, overlay
from ddpm.measuring import memorization
from ddpm.params import Params
from ddpm.training.start import Parent

KINDS, EACH, HELD_OUT = 20, 25, 5
MOST = 85
"""Tiles of a kind; a few kinds have many more, and the others would be compared with these above all."""


def tiles(archive: Path) -> tuple[Images, Images]:
    """The few pictures, training and held out, and the others, for the judges' training and as their reference."""
    with zipfile.ZipFile(archive) as file:
        kinds = defaultdict(list)
        for split in ("train", "test"):
            for line in file.read(f"{split}/metadata.jsonl").decode().splitlines():
                row = json.loads(line)
                kinds[" ".join(row["text"].split()[:2])].append(f"{split}/{row['file_name']}")
        largest = sorted(kinds, key=lambda kind: (-len(kinds[kind]), kind))[:KINDS]
        random = np.random.default_rng(0)
        parts: list[tuple[list[np.ndarray], list[int]]] = [([], []) for _ in range(4)]
        for label, kind in enumerate(largest):
            names = random.permutation(sorted(kinds[kind]))[:MOST].tolist()
            others = (EACH + len(names)) // 2
            cuts = (0, EACH - HELD_OUT, EACH, others, len(names))
            for (pixels, labels), start, stop in zip(parts, cuts[:-1], cuts[1:], strict=True):
                pixels += [_pixels(file.read(name)) for name in names[start:stop]]
                labels += [label] * (stop - start)
    train, held_out, learned, reference = ((np.stack(pixels), np.array(labels)) for pixels, labels in parts)
    return (
        Images("few tiles", *train, *held_out, tuple(largest)),
        Images("other tiles of the same kinds", *learned, *reference, tuple(largest)),
    )


def _pixels(content: bytes) -> np.ndarray:
    """uint8 [3,32,32]; what is transparent becomes black."""
    tile = Image.open(io.BytesIO(content)).convert("RGBA")
    black = Image.new("RGBA", tile.size, (0, 0, 0, 255))
    black.alpha_composite(tile)
    return np.asarray(black.convert("RGB")).transpose(2, 0, 1)


class Started(Ours):
    """This project, starting from the weights in train.start, a model file anywhere."""

    def parent(self) -> Parent | None:
        start = self.params.train.start
        if start is None:
            return None
        model = model_file.load(Path(start))
        return Parent({"name": start, "sha256": model.sha256}, model)


def copies(made: torch.Tensor, few: Images, judge: Judge, *, quantile: float) -> dict[str, float]:
    """The share of generated images that are copies, for each way of comparing. Features are those of the judge."""
    images = (made.numpy(), few.test, few.train)
    made_features, real, known = (np.asarray(judge.describe(each).features) for each in images)
    found = memorization.find_copies_in_every_way(
        images,
        (made_features, real),
        lambda start, piece: known[start : start + len(piece)],
        quantile=quantile,
        device=torch.device("cpu"),
        progress=False,
    )
    return {way: of.share for way, of in vars(found).items()}


def row(
    name: str,
    made: torch.Tensor,
    few: Images,
    judges: list[Judge],
    *,
    real: dict[str, float],
    limit: float,
    quantile: float,
) -> dict[str, str]:
    """One line of the table. `real`: the share of copies among real pictures not trained on, for each way."""
    shares = copies(made, few, judges[0], quantile=quantile)
    way = max(shares, key=lambda each: shares[each])
    verdict = "within" if shares[way] <= limit else "above"
    fids = {
        f"FID / floor, {judge.name}": f"{fid:.2f} ({fid / judge.fid(few.train):.2f})"
        for judge in judges
        for fid in [judge.fid(made)]
    }
    found = {"most copies": f"{shares[way]:.1%} ({way})", "of other real tiles": f"{real[way]:.1%}"}
    return {"training": name} | fids | found | {"gate's limit": verdict}


def trained(params: Params, few: Images, args: argparse.Namespace, folder: Path) -> tuple[torch.Tensor, Budget]:
    """As many images as there are training images, by the model of a training of so many minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    contender = Started(params)
    budget = Budget(60 * args.minutes, clock=time.process_time if args.cpu_time else time.monotonic)
    contender.train(few, budget, folder)
    return contender.drawer(folder, EMA)(len(few.train), 0, contender.default), budget


def main() -> None:
    args = parse()
    few, others = tiles(args.tiles)
    judges = [train_judge(others, name, seen=args.judge_images) for name in JUDGES]
    params = overlay.load(ROOT / "params.yaml", args.recipe)
    if args.attention is not None:
        params = replace(params, network=replace(params.network, attention=tuple(args.attention)))
    params = replace(params, train=replace(params.train, start=None if args.start is None else str(args.start)))
    plain = replace(params, train=replace(params.train, augment=replace(params.train.augment, probability=0.0)))
    name = "from another model" if args.start else "alone"
    trainings = {name: params} | ({f"{name}, without augmentation": plain} if args.without_augmentation else {})
    limit = next(rule.value for rule in params.promote.rules if rule.figure == "memorized_share")
    rules = {"limit": limit, "quantile": params.evaluate.memorized_quantile}
    real = copies(torch.from_numpy(others.test), few, judges[0], quantile=rules["quantile"])
    rows = []
    for name, each in trainings.items():
        made, budget = trained(each, few, args, args.models / name.replace(" ", "_").replace(",", ""))
        told = row(name, made, few, judges, real=real, **rules)
        rows.append({"training": told.pop("training"), "images seen": f"{budget.done:,}"} | told)
        print(rows[-1], flush=True)
        if args.pictures:
            real = few.train[np.random.default_rng(0).permutation(len(few.train))]
            save_pictures(args.pictures, {name: made, "real": real})
    write(args.output, report(args, few, others, judges, rows))


def report(
    args: argparse.Namespace, few: Images, others: Images, judges: list[Judge], rows: list[dict[str, str]]
) -> str:
    told = "; ".join(
        f"`{judge.name}`, right in {100 * judge.accuracy:.1f} % of the reference, floor {judge.fid(few.train):.2f}"
        for judge in judges
    )
    lines = [
        f"# {args.minutes:g} minutes of {'processor time in ' if args.cpu_time else ''}training on few pictures",
        f"{len(few.train)} tiles of {KINDS} kinds. FID of as many generated images against {len(others.test):,} other "
        f"tiles by judges that learned from {len(others.train):,} others: {told}. The floor is the FID of the training "
        "images. Copies are counted as in stage `evaluate` with these judges' features, "
        f"by {len(few.test)} held-out tiles; the way that finds most is named, and how many tiles of the "
        "reference, which no training saw, it takes for copies: as many are chance.",
        table(rows),
        f"{machine('cpu')}; {torch.get_num_threads()} threads of torch.",
        f"`{command()}`",
    ]
    return "\n\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=Path, required=True, help="captioned-tiles.zip")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/few.yaml")
    parser.add_argument("--cpu-time", action="store_true", help="count this process's time on all cores")
    parser.add_argument("--start", type=Path, help="a model file")
    parser.add_argument("--attention", type=int, nargs="*", help="network.attention, such as that of the started model")
    parser.add_argument("--without-augmentation", action="store_true", help="train once more, without it")
    parser.add_argument("--judge-images", type=int, default=60_000, help="seen in each judge's training")
    parser.add_argument("--pictures", type=Path, help="a folder for grids of pictures")
    add_training_arguments(parser, minutes=30.0, models=Path(".state/benchmarks/few"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
