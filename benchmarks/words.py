"""Does a model of captions draw what a caption says that it never saw? Two digits beside each other, and their order.

`python benchmarks/words.py --output benchmarks/results/words.md` composes pictures of 16x16 pixels of the embedded
digits ("a three left of a seven"), keeps ten pairs of digits out of the training, trains a model of captions on the
others, and reads both halves of its images with a classifier. Nothing is downloaded. With `--data MNIST`, a folder of
MNIST's files, the pictures have 32x32 pixels and are composed of MNIST's digits at half their size.
"""

import as_in_stages  # noqa: F401, I001
import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from captioned_training import trained
from common import command, load_images, machine, write
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ddpm import overlay
from ddpm.data.preparing.digit_pairs import HELD_OUT, IN_TRAINING, caption, composed
from ddpm.generation.generate import generate
from ddpm.generation.grid import grid
from ddpm.generation.recipe import recipe_in
from ddpm.model_file import Model
from ddpm.params import Params
from ddpm.text import conditions

ROOT = Path(__file__).parents[1]
GUIDANCE = (1.0, 2.0, 4.0)
BATCH = 200
GUIDED = " Guidance works at the noise levels of recipes/grey-32.yaml."


class Digits(NamedTuple):
    """Pictures of digits."""

    pixels: np.ndarray
    """uint8 [N,d,d]."""
    labels: np.ndarray
    """int64 [N]."""


def classifier(digits: Digits) -> nn.Module:
    """Return a network that was trained on these digits, each moved by up to one pixel."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, 10),
    )  # fmt: skip
    x, y = torch.from_numpy(digits.pixels)[:, None] / 127.5 - 1, torch.from_numpy(digits.labels)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(1500):
        rows = torch.randint(len(x), (128,))
        moved = x[rows].roll(tuple(torch.randint(-1, 2, (2,)).tolist()), (2, 3))
        loss = nn.functional.cross_entropy(network(moved), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@torch.inference_mode()
def read(network: nn.Module, pictures: np.ndarray) -> np.ndarray:
    """Return the digits of both halves: int64 [N,2]."""
    d = pictures.shape[-1] // 2
    x = torch.from_numpy(pictures)[:, :, d // 2 : d // 2 + d] / 127.5 - 1
    return torch.stack([network(half).argmax(1) for half in x.split(d, dim=3)], dim=1).numpy()


def share_right(found: np.ndarray, pairs: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Return the share of pictures with both digits in their places, and with both in any order."""
    wanted = np.array(pairs)
    in_order = (found == wanted).all(1)
    return float(in_order.mean()), float((np.sort(found, 1) == np.sort(wanted, 1)).all(1).mean())


def params_of(args: argparse.Namespace) -> Params:
    """Return the values of the training: those of params.yaml or, for larger digits, of the recipe for grey images."""
    recipe = None if args.data is None else ROOT / "recipes" / "grey-32.yaml"
    params = overlay.load(ROOT / "params.yaml", recipe)
    attention = (8,) if recipe is None else params.network.attention
    network = replace(params.network, width=args.width, blocks=1 if recipe is None else 2, attention=attention)
    decay = args.images // 4 if recipe is None else args.images * 3 // 4
    train = replace(params.train, images=args.images, decay_images=decay)
    runtime = params.runtime if recipe else replace(params.runtime, precision="float32")
    return replace(params, network=network, train=train, text=replace(params.text, length=12), runtime=runtime)


def digits_of(data: Path | None) -> tuple[Digits, Digits]:
    """Return digits to train on and held-out ones: the embedded ones of 8x8, or MNIST's, made 16x16."""
    if data is None:
        found = load_digits()
        digits, labels = (found.images * 255 / 16).astype(np.uint8), found.target.astype(np.int64)
        known = np.arange(len(digits)) % 5 != 0
        return Digits(digits[known], labels[known]), Digits(digits[~known], labels[~known])
    images = load_images(data)
    parts = ((images.train, images.train_labels), (images.test, images.test_labels))
    first, second = (Digits(halved(each[:, 0]), labels) for each, labels in parts if labels is not None)
    return first, second


def halved(images: np.ndarray) -> np.ndarray:
    """Return the means of 2x2 pixels: uint8 [N,H,W] -> [N,H/2,W/2]."""
    n, height, width = images.shape
    return images.reshape(n, height // 2, 2, width // 2, 2).mean((2, 4)).round().astype(np.uint8)


def drawn(
    model: Model, params: Params, pairs: Sequence[tuple[int, int]], *, guidance: float, told: bool = True
) -> Tensor:
    recipe = replace(recipe_in(params.sample, params.runtime.precision), guidance=guidance)
    condition = conditions.of_texts(model.spec, [caption(pair) if told else None for pair in pairs])
    return generate(model, recipe, n=len(pairs), seed=0, condition=condition, batch=BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder of MNIST's files; default: the embedded digits")
    parser.add_argument("--images", type=int, default=200_000, help="images seen in training")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=20_000, help="composed pictures to train on")
    parser.add_argument("--drawn", type=int, default=500, help="images for each row of the table")
    parser.add_argument("--picture", type=Path, help="file for images of the pairs never seen, one pair in a row")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    params, (digits, others) = params_of(args), digits_of(args.data)
    reader = classifier(digits)
    pairs = [IN_TRAINING[k % len(IN_TRAINING)] for k in range(args.pictures)]
    began = time.process_time()
    model = trained(composed(pairs, *digits, seed=0)[:, None], [caption(pair) for pair in pairs], params)
    seconds = time.process_time() - began
    asked = {"pairs of the training": IN_TRAINING, "pairs never seen": HELD_OUT}
    rows = []
    for name, choice in asked.items():
        wanted = [choice[k % len(choice)] for k in range(args.drawn)]
        real = composed(wanted, *others, seed=1)[:, None]
        rows.append((name, "real pictures", *share_right(read(reader, real), wanted)))
        for guidance in GUIDANCE:
            images = drawn(model, params, wanted, guidance=guidance).numpy()
            rows.append((name, f"guidance {guidance:g}", *share_right(read(reader, images), wanted)))
        images = drawn(model, params, wanted, guidance=1.0, told=False).numpy()
        rows.append((name, "without the caption", *share_right(read(reader, images), wanted)))
    size, kind = 2 * digits.pixels.shape[1], "of the embedded digits" if args.data is None else "of MNIST's digits"
    table = "\n".join(f"| {name} | {how} | {both:.1%} | {any_order:.1%} |" for name, how, both, any_order in rows)
    write(
        args.output,
        f"# What a model of captions draws\n\n`{command()}`, on {machine()}. The "
        f"training took {seconds / 60:.0f} minutes of one core's time; other programs used the machine, too.\n\n"
        f'Pictures of {size}x{size} pixels with two {kind}, and captions such as "{caption((3, 7))}". '
        f"{len(HELD_OUT)} of the 100 pairs are never trained on. A classifier that was trained on the digits of the "
        "training reads both halves of an image; on real pictures of other digits it errs as the first row says."
        f"{'' if args.data is None else GUIDED}\n\n"
        f"| pairs | drawn with | both digits in their places | both, in any order |\n|---|---|---|---|\n{table}\n",
    )
    if args.picture is not None:
        wanted = [HELD_OUT[k // 10] for k in range(100)]
        grid(drawn(model, params, wanted, guidance=2.0), columns=10).save(args.picture)


if __name__ == "__main__":
    main()
