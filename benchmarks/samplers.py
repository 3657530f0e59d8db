"""FID against network evaluations, for every sampler: a Markdown table on standard output, row by row.

    python benchmarks/samplers.py --model models/model.safetensors --extractor models/extractor.safetensors \\
        --prepared data/prepared

Every image k starts from the same noise in every row and column, so the rows differ by their samplers alone.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from common import machine

from ddpm import model_file
from ddpm.compute import hardware
from ddpm.data.reading.dataset import read_split
from ddpm.generation.generate import balanced_labels, generate
from ddpm.measuring.features.extractor import describe
from ddpm.measuring.fidelity import frechet_distance, load_extractor

ROWS: list[dict[str, Any]] = [
    {"sampler": "ddpm", "time_grid": "uniform"},
    {"sampler": "ddpm", "time_grid": "uniform", "variance": "large"},
    {"sampler": "ddim", "time_grid": "uniform"},
    {"sampler": "ddim", "time_grid": "quadratic"},
    {"sampler": "ddim", "time_grid": "optimized"},
    {"sampler": "heun", "time_grid": "karras"},
    {"sampler": "heun", "time_grid": "karras", "churn": 2.0},
    {"sampler": "dpmpp_2m", "time_grid": "uniform"},
    {"sampler": "dpmpp_2m", "time_grid": "karras"},
    {"sampler": "dpmpp_2m", "time_grid": "log_snr"},
    {"sampler": "dpmpp_3m", "time_grid": "log_snr"},
    {"sampler": "dpmpp_2m_sde", "time_grid": "uniform"},
    {"sampler": "dpmpp_2m_sde", "time_grid": "optimized"},
    {"sampler": "unipc", "time_grid": "uniform"},
    {"sampler": "unipc", "time_grid": "log_snr"},
    {"sampler": "unipc", "time_grid": "log_snr", "order": 3},
    {"sampler": "predictor_corrector", "time_grid": "uniform"},
    {"sampler": "langevin", "time_grid": "uniform", "langevin_snr": 0.7},
]


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
    for row in ROWS:
        if args.samplers and row["sampler"] not in args.samplers:
            continue
        cells = []
        for steps in args.evaluations:
            images = generate(
                model,
                n=n,
                seed=args.seed,
                condition=labels,
                steps=steps,
                eta=0.0,
                guidance=1.0,
                batch=args.batch,
                device=device,
                **row,
            )
            made = describe(extractor, images.numpy(), device=device, progress=False, what="generated")
            cells.append(f"{frechet_distance(made, reference):.3f}")
        print(f"| {_name(row)} | {row['time_grid']} | " + " | ".join(cells) + " |", flush=True)
    print(f"\nMade in {time.monotonic() - began:.0f} s.")


def _name(row: dict[str, Any]) -> str:
    rest = [f"{key} {value}" for key, value in row.items() if key not in ("sampler", "time_grid")]
    return ", ".join([f"`{row['sampler']}`", *rest])


if __name__ == "__main__":
    main()
