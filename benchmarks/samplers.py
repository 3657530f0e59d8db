"""FID against network evaluations, for every sampler: a Markdown table on standard output, row by row.

    python benchmarks/samplers.py --model models/model.safetensors --extractor models/extractor.safetensors \\
        --prepared data/prepared

Every image k starts from the same noise in every row and column, so the rows differ by their samplers alone.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import machine

from ddpm import model_file
from ddpm.compute import hardware
from ddpm.data.reading.dataset import read_split
from ddpm.generation.generate import balanced_labels, generate
from ddpm.generation.recipe import neutral
from ddpm.measuring.features.extractor import describe
from ddpm.measuring.features.extractor_file import load_extractor
from ddpm.measuring.frechet import frechet_distance

ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("ddpm", "uniform", {}),
    ("ddpm", "uniform", {"variance": "large"}),
    ("ddim", "uniform", {}),
    ("ddim", "quadratic", {}),
    ("ddim", "optimized", {}),
    ("heun", "karras", {}),
    ("heun", "karras", {"churn": 2.0}),
    ("dpmpp_2m", "uniform", {}),
    ("dpmpp_2m", "karras", {}),
    ("dpmpp_2m", "log_snr", {}),
    ("dpmpp_3m", "log_snr", {}),
    ("dpmpp_2m_sde", "uniform", {}),
    ("dpmpp_2m_sde", "optimized", {}),
    ("unipc", "uniform", {}),
    ("unipc", "log_snr", {}),
    ("unipc", "log_snr", {"order": 3}),
    ("predictor_corrector", "uniform", {}),
    ("langevin", "uniform", {"snr": 0.7}),
]
"""Sampler, time grid, and the options of the sampler that are not the neutral ones."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("model", "extractor", "prepared"):
        parser.add_argument(f"--{option}", type=Path, required=True)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--images", type=int, help="default: as many as there are training images")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samplers", nargs="+", help="only these")
    args = parser.parse_args()

    device = hardware.choose_device("auto")
    model = model_file.load(args.model, device)
    extractor = load_extractor(args.extractor, device)
    train, test = (read_split(args.prepared, name).images for name in ("train", "test"))
    reference = describe(extractor, test, device=device, progress=False, what="held-out")
    n, classes = args.images or len(train), len(model.spec.classes)
    labels = balanced_labels(n, classes, args.seed) if classes else None

    print(f"FID of {n} images against {len(test)} held-out real ones; model {model.sha256[:12]}, seed {args.seed},")
    print(f"{machine(str(device))}.\n")
    print("| sampler | time grid | " + " | ".join(f"{k} evaluations" for k in args.evaluations) + " |")
    print("|---|---|" + "---:|" * len(args.evaluations), flush=True)
    began = time.monotonic()
    for sampler, time_grid, options in ROWS:
        if args.samplers and sampler not in args.samplers:
            continue
        cells = []
        for steps in args.evaluations:
            recipe = replace(neutral(sampler=sampler, steps=steps), time_grid=time_grid, precision="float32")
            if options:
                recipe = replace(recipe, **{sampler: replace(getattr(recipe, sampler), **options)})
            images = generate(model, recipe, n=n, seed=args.seed, condition=labels, batch=args.batch)
            made = describe(extractor, images.numpy(), device=device, progress=False, what="generated")
            cells.append(f"{frechet_distance(made, reference):.3f}")
        print(f"| {_name(sampler, options)} | {time_grid} | " + " | ".join(cells) + " |", flush=True)
    print(f"\nMade in {time.monotonic() - began:.0f} s.")


def _name(sampler: str, options: dict[str, Any]) -> str:
    return ", ".join([f"`{sampler}`", *(f"{key} {value}" for key, value in options.items())])


if __name__ == "__main__":
    main()
