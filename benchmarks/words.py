"""Does a model of captions draw what a caption says that it never saw? Two digits beside each other, and their order.

`python benchmarks/words.py --output benchmarks/results/words.md` composes pictures of 16x16 pixels of the embedded
digits ("a three left of a seven"), keeps ten pairs of digits out of the training, trains a model of captions on the
others, and reads both halves of its images with a classifier. Nothing is downloaded.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import command, machine, write
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ddpm.generation.generate import generate
from ddpm.generation.grid import grid
from ddpm.generation.recipe import recipe_in
from ddpm.model_file import Model
from ddpm.params import load as load_params
from ddpm.text import conditions
from ddpm.text.tokenizer import learn
from ddpm.training import session
from ddpm.training.spec import sections_of, spec_of

ROOT = Path(__file__).parents[1]
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_OUT = tuple((a, (3 * a + 4) % 10) for a in range(10))
"""Pairs of which no picture is trained on; each digit is once on the left and once on the right."""
GUIDANCE = (1.0, 2.0, 4.0)
BATCH = 200


def caption(pair: tuple[int, int]) -> str:
    return f"a {NAMES[pair[0]]} left of a {NAMES[pair[1]]}"


def composed(pairs: Sequence[tuple[int, int]], digits: np.ndarray, labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Return pictures with random digits of these classes: uint8 [N,1,16,16]."""
    random, pictures = np.random.default_rng(seed), np.zeros((len(pairs), 1, 16, 16), np.uint8)
    places = [np.flatnonzero(labels == k) for k in range(10)]
    for picture, (left, right) in zip(pictures, pairs, strict=True):
        picture[0, 4:12, :8] = digits[random.choice(places[left])]
        picture[0, 4:12, 8:] = digits[random.choice(places[right])]
    return pictures


def classifier(digits: np.ndarray, labels: np.ndarray) -> nn.Module:
    """Return a network that was trained on these digits, uint8 [N,8,8], each moved by up to one pixel."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, 10),
    )  # fmt: skip
    x, y = torch.from_numpy(digits)[:, None] / 127.5 - 1, torch.from_numpy(labels)
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
    x = torch.from_numpy(pictures)[:, :, 4:12] / 127.5 - 1
    return torch.stack([network(half).argmax(1) for half in (x[..., :8], x[..., 8:])], dim=1).numpy()


def share_right(found: np.ndarray, pairs: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Return the share of pictures with both digits in their places, and with both in any order."""
    wanted = np.array(pairs)
    in_order = (found == wanted).all(1)
    return float(in_order.mean()), float((np.sort(found, 1) == np.sort(wanted, 1)).all(1).mean())


def trained(pictures: np.ndarray, captions: list[str], *, images: int, width: int) -> Model:
    params = load_params(ROOT / "params.yaml")
    network = replace(params.network, width=width, blocks=1, attention=(8,))
    train = replace(params.train, images=images, decay_images=images // 4)
    sections = sections_of(params)
    sections |= {"condition": "text", "text": replace(params.text, length=12), "network": network, "train": train}
    tokenizer = learn(captions, size=params.text.vocabulary)
    spec = spec_of(channels=1, size=16, classes=(), tokenizer=tokenizer, **sections)
    training = session.begin(
        spec,
        pictures,
        conditions.of_images(spec, None, lambda: captions),
        data_hash="of a benchmark",
        code_hash="of a benchmark",
        settings=train,
        runtime=replace(params.runtime, resume="never"),
        device=torch.device("cpu"),
        precision="float32",
        state_folder=Path("no-checkpoints"),
    )
    for step in training.steps():
        if step.images_seen % (50 * train.batch_size) == 0:
            print(f"{step.images_seen:,} images, loss {float(step.loss):.4f}", flush=True)
    return Model(training.average(), spec, lineage={}, sha256="")


def drawn(model: Model, pairs: Sequence[tuple[int, int]], *, guidance: float, told: bool = True) -> Tensor:
    params = load_params(ROOT / "params.yaml")
    recipe = replace(recipe_in(params.sample, "float32"), guidance=guidance)
    condition = conditions.of_texts(model.spec, [caption(pair) if told else None for pair in pairs])
    return generate(model, recipe, n=len(pairs), seed=0, condition=condition, batch=BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200_000, help="images seen in training")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=20_000, help="composed pictures to train on")
    parser.add_argument("--drawn", type=int, default=500, help="images for each row of the table")
    parser.add_argument("--picture", type=Path, help="file for images of the pairs never seen, one pair in a row")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    data = load_digits()
    digits, labels = (data.images * 255 / 16).astype(np.uint8), data.target.astype(np.int64)
    known = np.arange(len(digits)) % 5 != 0
    reader = classifier(digits[known], labels[known])
    seen = [(a, b) for a in range(10) for b in range(10) if (a, b) not in HELD_OUT]
    pairs = [seen[k % len(seen)] for k in range(args.pictures)]
    began = time.perf_counter()
    model = trained(
        composed(pairs, digits[known], labels[known], seed=0),
        [caption(pair) for pair in pairs],
        images=args.images,
        width=args.width,
    )
    seconds = time.perf_counter() - began
    asked = {"pairs of the training": seen, "pairs never seen": HELD_OUT}
    rows = []
    for name, choice in asked.items():
        wanted = [choice[k % len(choice)] for k in range(args.drawn)]
        real = composed(wanted, digits[~known], labels[~known], seed=1)
        rows.append((name, "real pictures", *share_right(read(reader, real), wanted)))
        for guidance in GUIDANCE:
            images = drawn(model, wanted, guidance=guidance).numpy()
            rows.append((name, f"guidance {guidance:g}", *share_right(read(reader, images), wanted)))
        images = drawn(model, wanted, guidance=1.0, told=False).numpy()
        rows.append((name, "without the caption", *share_right(read(reader, images), wanted)))
    table = "\n".join(f"| {name} | {how} | {both:.1%} | {any_order:.1%} |" for name, how, both, any_order in rows)
    write(
        args.output,
        f"# What a model of captions draws\n\n`{command()}`, on {machine()}. The "
        f"training took {seconds / 60:.0f} minutes.\n\n"
        f'Pictures of 16x16 pixels with two of the embedded digits, and captions such as "{caption((3, 7))}". '
        f"{len(HELD_OUT)} of the 100 pairs are never trained on. A classifier that was trained on the digits of the "
        "training reads both halves of an image; on real pictures of other digits it errs as the first row says.\n\n"
        f"| pairs | drawn with | both digits in their places | both, in any order |\n|---|---|---|---|\n{table}\n",
    )
    if args.picture is not None:
        wanted = [HELD_OUT[k // 10] for k in range(100)]
        grid(drawn(model, wanted, guidance=2.0), columns=10).save(args.picture)


if __name__ == "__main__":
    main()
