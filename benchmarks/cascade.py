"""Does a cascade draw better than one model in the same time? A class to small digits, these to digits of full size.

`python benchmarks/cascade.py --data DIR --output benchmarks/results/cascade.md` trains a base of classes at half the
size and a model that enlarges by 2, and one model of classes at full size for as many images as both together. FID and
the share of images that a classifier reads as their class are those of `benchmarks/judge.py`.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import Images, command, load_images, machine, write
from conditioned_pictures import ROOT, trained
from judge import Judge, train_judge
from torch import Tensor

from ddpm.degrading.operators import average_pooling
from ddpm.degrading.settings import ImageCondition
from ddpm.generation.generate import balanced_labels, generate
from ddpm.generation.pictures import grid_by_class
from ddpm.generation.recipe import Recipe, recipe_in
from ddpm.images import to_model_range, to_uint8
from ddpm.model_file import Model
from ddpm.params import load as load_params
from ddpm.settings import as_dict

BATCH = 100


def halved(images: np.ndarray) -> np.ndarray:
    """Return the means of squares of 2x2 pixels, rounded: uint8 [N,C,H/2,W/2]."""
    parts = [
        to_uint8(average_pooling(2).measure(to_model_range(torch.from_numpy(part))))
        for part in np.array_split(images, max(1, len(images) // 5000))
    ]
    return torch.cat(parts).numpy()


def drawn(model: Model, recipe: Recipe, labels: Tensor) -> tuple[Tensor, float]:
    """Return an image of each label, uint8 [N,C,H,W], and the processor seconds of one."""
    began = time.process_time()
    images = generate(model, recipe, n=len(labels), seed=0, condition=labels, batch=BATCH)
    return images, (time.process_time() - began) / len(labels)


def line(name: str, images: Tensor, labels: Tensor, judge: Judge, *, minutes: float, seconds: float) -> str:
    right = judge.describe(images).logits.argmax(dim=1) == labels
    figures = f"{judge.fid(images):.2f} | {float(right.double().mean()):.1%}"
    return f"| {name} | {figures} | {minutes:.1f} | {1000 * seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="MNIST's files, a prepared folder or a zip; default: sklearn's digits"
    )
    parser.add_argument("--size", type=int, default=8, help="of the images, in pixels")
    parser.add_argument("--seen", type=int, default=30_000, help="images seen by each of both models of the cascade")
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--patch", type=int, default=1, help="of the models at full size; 1 at half the size")
    parser.add_argument("--batch", type=int, default=32, help="images of a training step")
    parser.add_argument("--noise", type=float, default=30.0, help="greatest noise of the augmentation, in grey levels")
    parser.add_argument("--drawn", type=int, default=500, help="images that are measured")
    parser.add_argument("--judge-images", type=int, default=60_000, help="images seen in the training of the judge")
    parser.add_argument("--picture", type=Path, help="file for images of the cascade, a class in a row")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    images: Images = load_images(args.data, size=args.size)
    assert images.train_labels is not None
    classes = tuple(str(k) for k in range(int(images.train_labels.max()) + 1))
    judge = train_judge(images, seen=args.judge_images)
    recipe = recipe_in(load_params(ROOT / "params.yaml").sample, "float32")
    enlarging = ImageCondition(degradations=("super-resolution",), factor=2, hole=(0.3, 0.7), noise=(0.0, args.noise))
    began = time.process_time()
    base = trained(
        halved(images.train),
        images.train_labels,
        None,
        seen=args.seen,
        width=args.width,
        batch=args.batch,
        patch=1,
        classes=classes,
    )
    large = trained(images.train, None, enlarging, seen=args.seen, width=args.width, batch=args.batch, patch=args.patch)
    of_cascade = (time.process_time() - began) / 60
    began = time.process_time()
    one = trained(
        images.train,
        images.train_labels,
        None,
        seen=2 * args.seen,
        width=args.width,
        batch=args.batch,
        patch=args.patch,
        classes=classes,
    )
    of_one = (time.process_time() - began) / 60
    cascade = replace(large, base=replace(base, recipe=as_dict(recipe)))
    labels = balanced_labels(args.drawn, len(classes), 0)
    lines = []
    for noise in (0.0, args.noise / 2):
        found, seconds = drawn(cascade, replace(recipe, picture_noise=noise), labels)
        name = f"cascade, `sample.picture_noise` {noise:g}"
        lines.append(line(name, found, labels, judge, minutes=of_cascade, seconds=seconds))
        if args.picture is not None and not noise:
            grid_by_class(found, labels, 100).save(args.picture)
    found, seconds = drawn(one, recipe, labels)
    lines.append(line("one model", found, labels, judge, minutes=of_one, seconds=seconds))
    rows, size = "\n".join(lines), images.train.shape[2]
    write(
        args.output,
        f"# A cascade and one model\n\n`{command()}`, on {machine()}; other programs used the machine, too.\n\n"
        f"{images.name}. The cascade draws a class at {size // 2}x{size // 2} pixels and enlarges it to {size}x{size}; "
        f"each of its models has seen {args.seen:,} images, the one model {2 * args.seen:,}. All draw in "
        f"{recipe.steps} steps. FID is that of {args.drawn} images against {len(images.test):,} held-out ones by a "
        f"classifier that recognises {judge.accuracy:.1%} of these.\n\n"
        "| model | FID | read as its class | minutes of processor time in training | processor ms per image |\n"
        f"|---|---|---|---|---|\n{rows}\n",
    )


if __name__ == "__main__":
    main()
