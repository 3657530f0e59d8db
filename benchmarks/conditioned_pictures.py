"""How much better does a model restore pictures when it was trained for it? PSNR, SSIM, a classifier.

`python benchmarks/conditioned_pictures.py --output benchmarks/results/conditioned_pictures.md` trains two models with
equal networks, for equally many images: one that is given degraded pictures (condition image), and one without a
condition, which restores without being trained for it, as `ddpm restore` and `ddpm inpaint` do. Both restore the same
held-out images. Nothing is downloaded; `--data` names MNIST's own files, a prepared folder or a zip.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from common import command, load_images, machine, write
from judge import Judge, train_judge
from torch import Tensor

from ddpm.degrading import conditions
from ddpm.degrading.pictures import Picture, Pictures
from ddpm.degrading.settings import Degradation, ImageCondition
from ddpm.generation import picture_tasks
from ddpm.generation.batch import Batch
from ddpm.generation.generate import generate
from ddpm.generation.pictures import grid
from ddpm.generation.recipe import Recipe, neutral, recipe_in
from ddpm.images import to_model_range, to_uint8
from ddpm.measuring.psnr_ssim import psnr, ssim
from ddpm.model_file import Model
from ddpm.params import load as load_params
from ddpm.serving.picture_request import STEPS, TASKS
from ddpm.training import session
from ddpm.training.spec import SECTIONS, spec_of

ROOT = Path(__file__).parents[1]
BATCH = 100
SHOWN = 8
"""Held-out images of each task on the picture."""


@dataclass(frozen=True)
class Row:
    """One way to restore the pictures of a task."""

    task: str
    how: str
    evaluations: int
    """Of the network, per image."""
    images: Tensor
    """uint8 [N,C,H,W]."""
    seconds: float


def trained(
    pixels: np.ndarray,
    labels: np.ndarray | None,
    image: ImageCondition | None,
    *,
    seen: int,
    width: int,
    patch: int,
    batch: int = 128,
    classes: tuple[str, ...] = (),
) -> Model:
    """Train on images, uint8 [N,C,H,W], with these labels, or given degraded pictures, or without a condition."""
    params = load_params(ROOT / "params.yaml")
    network = replace(params.network, width=width, patch=patch, attention=(pixels.shape[2] // (2 * patch),))
    lengths = {"images": seen, "warmup_images": min(2000, seen // 4), "decay_images": seen // 4}
    train = replace(params.train, batch_size=batch, **lengths)
    sections = {name: getattr(params, name) for name in SECTIONS} | {"network": network, "train": train}
    sections |= {"condition": "image" if image else "label" if classes else "none", "image": image}
    spec = spec_of(channels=pixels.shape[1], size=pixels.shape[2], classes=classes, **sections)
    training = session.begin(
        spec,
        pixels,
        labels,
        data_hash="of a benchmark",
        code_hash="of a benchmark",
        settings=train,
        runtime=replace(params.runtime, resume="never"),
        device=torch.device("cpu"),
        precision="float32",
        state_folder=Path("no-checkpoints"),
    )
    for step in training.steps():
        if step.images_seen % (100 * train.batch_size) == 0:
            print(f"{step.images_seen:,} images, loss {float(step.loss):.4f}", flush=True)
    return Model(training.average(), spec, lineage={}, sha256="")


def given(pictures: Pictures) -> Tensor:
    """Return the pictures themselves, at the size of the images: uint8 [N,C,H,W]; what is not known is grey."""
    return to_uint8(pictures[:][:, :-2])


def restored(model: Model, recipe: Recipe, pictures: Pictures) -> Tensor:
    """Return what the model that was trained for it makes of the pictures."""
    return generate(model, recipe, n=len(pictures), seed=0, condition=pictures, batch=BATCH)


def restored_freely(model: Model, pictures: Pictures, kind: Degradation) -> Tensor:
    """Return what a model without a condition makes of them, by the task of `ddpm restore` with its usual values."""
    parts = []
    for start in range(0, len(pictures), BATCH):
        indices = range(start, min(start + BATCH, len(pictures)))
        batch = Batch(model=model, recipe=neutral(sampler="ddim", steps=25), seed=0, indices=indices, condition=None)
        parts.append(_freely(batch, [pictures.picture(k) for k in indices], pictures.settings, kind))
    return torch.cat(parts)


def _freely(batch: Batch, pictures: list[Picture], settings: ImageCondition, kind: Degradation) -> Tensor:
    pixels = torch.stack([each.pixels for each in pictures])
    if kind == "inpaint":
        known = ~torch.stack([each.hole for each in pictures if each.hole is not None])
        usual = {name: int(default or 0) for name, (_, _, default) in TASKS["inpaint"].items()}
        return picture_tasks.inpaint(batch, pixels, known, steps=STEPS["inpaint"], **usual)
    if kind == "denoise":
        return picture_tasks.denoise(batch, pixels, std=pictures[0].noise, steps=25)
    operator = conditions.operator_of(settings, kind)
    assert operator is not None
    return picture_tasks.restore(batch, pixels, operator, steps=25)


def evaluations(kind: Degradation) -> int:
    """Return how often `restored_freely` asks the network, per image."""
    if kind != "inpaint":
        return 25
    jump, resamplings = (int(TASKS["inpaint"][name][2] or 0) for name in ("jump", "resamplings"))
    steps = STEPS["inpaint"]
    return steps + jump * (resamplings - 1) * len(range(1, steps - jump + 1, jump))


def timed(draw: Callable[[], Tensor]) -> tuple[Tensor, float]:
    began = time.process_time()
    images = draw()
    return images, time.process_time() - began


def line(row: Row, originals: Tensor, labels: Tensor, judge: Judge) -> str:
    x, x_hat = to_model_range(originals), to_model_range(row.images)
    right = judge.describe(row.images).logits.argmax(dim=1) == labels
    figures = (
        f"{float(psnr(x, x_hat).mean()):.2f} | {float(ssim(x, x_hat).mean()):.3f} | {float(right.double().mean()):.1%}"
    )
    cost = f"{row.evaluations} | {1000 * row.seconds / len(row.images):.1f}" if row.evaluations else "– | –"
    return f"| {row.task} | {row.how} | {figures} | {cost} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="MNIST's files, a prepared folder or a zip; default: sklearn's digits"
    )
    parser.add_argument("--size", type=int, default=8, help="of the images, in pixels")
    parser.add_argument("--seen", type=int, default=100_000, help="images seen in each training")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--patch", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32, help="images of a training step")
    parser.add_argument("--factor", type=int, default=2, help="of super-resolution")
    parser.add_argument("--noise", type=float, default=50.0, help="standard deviation, in grey levels")
    parser.add_argument("--restored", type=int, default=200, help="held-out images of each task")
    parser.add_argument(
        "--judge-images", type=int, default=60_000, help="images seen in the training of the classifier"
    )
    parser.add_argument("--picture", type=Path, help="file for some of the pictures, beside what was made of them")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    images = load_images(args.data, size=args.size)
    assert images.test_labels is not None
    judge = train_judge(images, seen=args.judge_images)
    kinds: list[Degradation] = ["super-resolution", "inpaint", "denoise"]
    kinds += ["colourise"] if images.train.shape[1] == 3 else []
    condition = ImageCondition(degradations=tuple(kinds), factor=args.factor, hole=(0.3, 0.7), noise=(0.0, args.noise))
    recipe = recipe_in(load_params(ROOT / "params.yaml").sample, "float32")
    models, minutes = {}, {}
    for name, own in (("trained for it", condition), ("not trained for it", None)):
        began = time.process_time()
        models[name] = trained(
            images.train, None, own, seen=args.seen, width=args.width, patch=args.patch, batch=args.batch
        )
        minutes[name] = (time.process_time() - began) / 60
    lines, shown = [], []
    for kind in kinds:
        of_kind = replace(condition, degradations=(kind,))
        pictures = Pictures(of_kind, images.test, n=args.restored, seed=0, noise=0.0)
        originals = torch.stack([pictures.original(k) for k in range(args.restored)])
        labels = torch.stack([torch.as_tensor(images.test_labels[pictures.row(k)]) for k in range(args.restored)])
        by_training, seconds = timed(lambda of=pictures: restored(models["trained for it"], recipe, of))
        freely, free_seconds = timed(
            lambda of=pictures, kind=kind: restored_freely(models["not trained for it"], of, kind)
        )
        rows = [
            Row(kind, "the picture itself", 0, given(pictures), 0.0),
            Row(kind, "not trained for it", evaluations(kind), freely, free_seconds),
            Row(kind, "trained for it", recipe.steps, by_training, seconds),
            Row(kind, "the held-out image", 0, originals, 0.0),
        ]
        lines += [line(row, originals, labels, judge) for row in rows]
        shown += [row.images[:SHOWN] for row in rows]
    table = "\n".join(lines)
    names = {"super-resolution": f"super-resolution by {args.factor}", "denoise": f"denoise, noise {args.noise:g}"}
    for kind, words in names.items():
        table = table.replace(f"| {kind} |", f"| {words} |")
    size, test = images.train.shape[2], len(images.test)
    write(
        args.output,
        f"# Restoring pictures with a model that was trained for it\n\n`{command()}`, on {machine()}; other programs "
        f"used the machine, too.\n\n{images.name}, {size}x{size} pixels. Two models with equal networks have seen "
        f"{args.seen:,} images each: one is given degraded pictures (`condition: image`, {len(kinds)} tasks in one "
        f"model, {minutes['trained for it']:.0f} minutes of processor time), the other has no condition "
        f"({minutes['not trained for it']:.0f} minutes) and restores by DDNM, RePaint and DDPM, as `ddpm restore` and "
        f"`ddpm inpaint` do with their usual values. {args.restored} of {test:,} held-out images, degraded and rounded "
        f"to 256 levels; the hole of inpaint is 30 to 70% of the image high and wide. The classifier recognises "
        f"{judge.accuracy:.1%} of all held-out images.\n\n"
        "| task | model | PSNR, dB | SSIM | recognised | evaluations per image | processor ms per image |\n"
        f"|---|---|---|---|---|---|---|\n{table}\n",
    )
    if args.picture is not None:
        grid(torch.cat(shown), columns=SHOWN).save(args.picture)


if __name__ == "__main__":
    main()
