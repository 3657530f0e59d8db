"""Diffusion, VAE and GAN in the same pipeline: equal minutes, about equal parameters, several training seeds.

    OMP_NUM_THREADS=1 python benchmarks/methods.py --minutes 1 --output benchmarks/results/methods_digits.md
    OMP_NUM_THREADS=1 python benchmarks/methods.py --data MNIST --minutes 3 --output benchmarks/results/methods_mnist.md

Each method is trained by `ddpm.training`, drawn by `ddpm.generation` and measured by `ddpm.measuring`, with the values
of params.yaml, the recipe that fits the images and the method's own recipe. Every training has the same time of this
process on all cores, so other programs disturb the comparison little. A training that was measured is kept in
`--models` and is not repeated.
"""

import as_in_stages  # noqa: F401, I001
import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from common import Images, add_training_arguments, command, load_images, machine, spread, table, write
from contenders import EMA, Budget, class_names
from contenders.kept import ROOT, params_for
from contenders.ours import Ours

from ddpm import recipe_file
from ddpm.errors import UserError
from ddpm.files import write_json
from ddpm.generation.grid import grid_by_class
from ddpm.generation.generate import balanced_labels
from ddpm.generation.recipe import recipe_in
from ddpm.measuring import fidelity
from ddpm.measuring.features.extractor import FeatureExtractor
from ddpm.measuring.features.extractor_training import train_extractor
from ddpm.measuring.metric_catalogue import find
from ddpm.params import Params
from ddpm.settings import as_dict

METHODS = ("diffusion", "vae", "gan")
FAILED = 3.0
"""A training has failed if it stopped with an error, or if its FID is so many times the median of its method."""
SHOWN = ("fid", "precision", "recall", "classes_covered", "sharpness", "memorized_share")
CPU = torch.device("cpu")
WIDTHS = range(16, 97, 8)
TRAIN = {"optimizer": "adamw", "time_sampling": "uniform"}
"""What a recipe for diffusion may set otherwise, and the other methods do not read."""


def params_of(method: str, images: Images) -> Params:
    """The values of params.yaml with the recipe that fits the images and, over it, the recipe of the method.

    The width of VAE and GAN is the one with which as many parameters are trained as of diffusion, or nearly as many.
    """
    params, own = params_for(images, None, None), ROOT / "recipes" / "methods" / f"{method}.yaml"
    if not own.is_file():
        return replace(params, method=method)
    values = recipe_file.read(own).values
    sample = replace(params.sample, guidance=1.0, guidance_interval=(0.0, None))  # what only diffusion reads
    own_params = replace(params, method=method, sample=sample, train=replace(params.train, **TRAIN | values["train"]))
    section, wanted = getattr(own_params, method), parameters_of(params, images)
    widths = (replace(own_params, **{method: replace(section, width=width)}) for width in WIDTHS)
    return min(widths, key=lambda each: abs(parameters_of(each, images) - wanted))


def some_of(images: Images, most: int) -> Images:
    """The first training and test images, at most so many of each."""
    cut = {name: getattr(images, name)[:most] for name in ("train", "train_labels", "test", "test_labels")}
    return replace(
        images, name=f"{images.name}, the first {most:,}" if len(images.train) > most else images.name, **cut
    )


def run(params: Params, images: Images, extractor: FeatureExtractor, args: argparse.Namespace, folder: Path) -> Any:
    """Train, draw and measure; return what the table needs. The images are kept beside it."""
    told, pictures = folder / "measured.json", folder / "images.npy"
    if told.is_file():
        return json.loads(told.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    contender, budget = Ours(params), Budget(60 * args.minutes, clock=time.process_time)
    result: dict[str, Any] = {"error": None}
    try:
        contender.train(images, budget, folder)
        draw, n = contender.drawer(folder, EMA), min(args.images, len(images.train))
        began = time.process_time()
        drawn = draw(n, 0, contender.default)
        result["seconds_per_image"] = (time.process_time() - began) / n
        np.save(pictures, drawn.numpy())
        record, _ = fidelity.measure_images(
            drawn.numpy(),
            images.train,
            images.test,
            extractor=extractor,
            settings=params.evaluate,
            drawing=as_dict(recipe_in(params.sample, "float32")),
            seed=0,
            device=CPU,
            progress=False,
            labels=(balanced_labels(n, len(class_names(images)), 0).numpy(), images.train_labels, images.test_labels),
        )
        result |= record.to_json()
    except UserError as error:
        result["error"] = str(error)
    write_json(told, result | {"images_seen": budget.done, "seconds": budget.spent})
    return json.loads(told.read_text())


def row(method: str, parameters: int, results: list[dict[str, Any]]) -> dict[str, str]:
    """One line of the table: the median over the seeds, with the smallest and the largest."""
    fids = [each["fid"] for each in results if each["error"] is None]
    limit = FAILED * statistics.median(fids) if fids else 0.0
    failed = sum(each["error"] is not None or each["fid"] > limit for each in results)
    cells = {"method": method, "parameters": f"{parameters:,}", "failed trainings": f"{failed} of {len(results)}"}
    for name in (*SHOWN, "seconds_per_image"):
        metric, values = find(name), [each[name] for each in results if each.get(name) is not None]
        label = "ms per image" if name == "seconds_per_image" else metric.label if metric else name
        factor = 1000 if name == "seconds_per_image" else 1
        cells[label] = spread([factor * value for value in values], ".3g") if values else ""
    seen = statistics.median(each["images_seen"] for each in results)
    return cells | {"images seen": f"{seen:,.0f}"}


def main() -> None:
    args = parse()
    images = some_of(load_images(args.data, size=32 if args.data else 8), args.most)
    classes = len(class_names(images))
    every = {method: params_of(method, images) for method in args.methods}
    splits = (SimpleNamespace(images=p, labels=y) for p, y in (
        (images.train, images.train_labels), (images.test, images.test_labels)))  # fmt: skip
    extractor = train_extractor(
        *splits,
        kind="classifier",
        classes=classes,
        settings=next(iter(every.values())).features,
        device=CPU,
        progress=False,
    )
    rows, shown, last = [], {}, {}
    for method, params in every.items():
        results = []
        for seed in args.seeds:
            seeded = replace(params, train=replace(params.train, seed=seed))
            folder = args.models / (args.data.name if args.data else "digits") / f"{method}-{seed}"
            results.append(run(seeded, images, extractor, args, folder))
            print(method, seed, {name: results[-1].get(name) for name in ("error", *SHOWN)}, flush=True)
        rows.append(row(method, parameters_of(params, images), results))
        median = sorted(results, key=lambda each: each.get("fid") or float("inf"))[(len(results) - 1) // 2]
        shown[method] = args.seeds[results.index(median)]
        last = median
    if args.picture:
        draw_picture(args, images, shown, classes)
    write(args.output, report(args, images, rows, last["floor"], extractor.accuracy))


def parameters_of(params: Params, images: Images) -> int:
    """Number of parameters that are trained."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return Ours(params).begin(images, Path(folder)).parameters


def draw_picture(args: argparse.Namespace, images: Images, shown: dict[str, int], classes: int) -> None:
    """Real images, and for each method those of the training with the median FID, side by side; the spectra below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    name = args.data.name if args.data else "digits"
    columns: dict[str, tuple[np.ndarray, torch.Tensor]] = {}
    columns["real, held out"] = (images.test, torch.as_tensor(images.test_labels))
    for method, seed in shown.items():
        drawn = np.load(args.models / name / f"{method}-{seed}" / "images.npy")
        columns[method] = (drawn, balanced_labels(len(drawn), classes, 0))
    figure = Figure(figsize=(3 * len(columns), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, (pixels, labels)) in zip(figure.subplots(1, len(columns)), columns.items(), strict=True):
        axes.imshow(grid_by_class(torch.as_tensor(pixels), labels, 100), cmap="gray")
        axes.set_title(title, fontsize=10)
        axes.axis("off")
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.picture, dpi=110)


def report(
    args: argparse.Namespace, images: Images, rows: list[dict[str, str]], floor: dict[str, Any], accuracy: float
) -> str:
    at_floor = ", ".join(
        f"{metric.label} {floor[name]:.3g}"
        for name in SHOWN
        if (metric := find(name)) is not None and floor.get(name) is not None
    )
    lines = [
        f"# Diffusion, VAE and GAN after {args.minutes:g} minutes of processor time each",
        f"{images.name}: {len(images.train):,} training and {len(images.test):,} held-out images. "
        f"{len(args.seeds)} trainings of each method, which differ in `train.seed`; each cell has the median, and the "
        "smallest and the largest. Metrics are those of stage `evaluate`, by a classifier that names the class of "
        f"{accuracy:.1%} of the held-out images. The floor, real training images measured the same way: {at_floor}. A "
        f"training has failed if it stopped with an error, or if its FID is above {FAILED:g} times the median of its "
        "method. Drawing is measured in processor time, in batches.",
        table(rows),
        f"{machine('cpu')}; {torch.get_num_threads()} threads of torch.",
        f"`{command()}`",
    ]
    return "\n\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of MNIST's files, or a prepared one; default: the digits")
    parser.add_argument("--most", type=int, default=10_000, help="training and held-out images that are used, at most")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of training")
    parser.add_argument("--images", type=int, default=2_000, help="generated, at most as many as training images")
    parser.add_argument("--picture", type=Path, help="a PNG of samples of each method")
    add_training_arguments(parser, minutes=1.0, models=Path(".state/benchmarks/methods"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
