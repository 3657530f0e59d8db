"""Diffusion of pixels and of latents at equal processor time: images per second in training and sampling, FID by time.

    OMP_NUM_THREADS=1 python benchmarks/latents.py --data MNIST --picture docs/latents.png \\
        --output benchmarks/results/latents.md

The images are two digits on a canvas of 64x64 pixels: MNIST's in the folder --data, else scikit-learn's. The
autoencoder is trained first, and its time is counted as that of the latents' training. All times are of one process on
all cores, so other programs disturb the comparison little. What was trained is kept in `--models` and is not repeated.
"""

import as_in_stages  # noqa: F401, I001
import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from common import Images, add_training_arguments, command, load_images, machine, ratio, table, take_turns, write
from contenders import EMA, Budget
from contenders.kept import ROOT
from contenders.ours import Ours, file_drawer

from ddpm import model_file, overlay
from ddpm.encoding.standardise import standardised
from ddpm.files import write_json
from ddpm.generation.grid import grid
from ddpm.generation.reconstruction import restored_images
from ddpm.measuring.features import extractor_file
from ddpm.measuring.features.extractor import Extractor, describe
from ddpm.measuring.features.extractor_training import train_extractor
from ddpm.measuring.features.perceptual import perceptual_distance
from ddpm.measuring.frechet import frechet_distance
from ddpm.measuring.reconstruction import measure_reconstruction
from ddpm.model_file import Model
from ddpm.model_spec import spec_of_autoencoder
from ddpm.networks.autoencoder_kl import AutoencoderKL
from ddpm.params import Params
from ddpm.training import session
from ddpm.training.autoencoder import codec_of, train_of

CANVAS = 64
CPU = torch.device("cpu")
CONTENDERS = {"pixels": 1, "pixels in patches": 4, "latents": 1}
"""What diffuses, by the patch of the U-Net, which has the same number of positions in the last two."""
SNAPSHOTS = (0.5,)
"""Shares of the time after which FID is measured, besides the end."""
ROUNDS, DRAWN = 5, 16
STEPS = 4
"""Training steps of a measurement of speed."""


def canvases(digits: np.ndarray, n: int, *, seed: int) -> np.ndarray:
    """Place two digits beside each other at random heights: uint8 [n,1,CANVAS,CANVAS]."""
    random, side = np.random.default_rng(seed), digits.shape[-1]
    placed = np.zeros((n, 1, CANVAS, CANVAS), np.uint8)
    for canvas, pair in zip(placed, random.integers(len(digits), size=(n, 2)), strict=True):
        for left, digit in zip((0, CANVAS // 2), digits[pair], strict=True):
            y, x = random.integers(0, CANVAS - side + 1), left + random.integers(0, CANVAS // 2 - side + 1)
            canvas[0, y : y + side, x : x + side] = digit[0]
    return placed


def params_of(patch: int) -> Params:
    """Return params.yaml with the recipe for latents of 64x64 images, and of pixels with this patch."""
    params = overlay.load(ROOT / "params.yaml", ROOT / "recipes" / "methods" / "latents-64.yaml")
    return replace(params, network=replace(params.network, patch=patch))


def autoencoder_of(params: Params, images: Images, seconds: float, folder: Path) -> tuple[Model, float]:
    """Train the autoencoder for about this processor time; return it and the seconds."""
    file, told = folder / "autoencoder.safetensors", folder / "autoencoder.json"
    if told.is_file():
        return model_file.load(file), json.loads(told.read_text())["seconds"]
    settings = params.autoencoder

    def begin(length: int) -> session.Training:
        asked = replace(settings, images=length)
        spec = spec_of_autoencoder(channels=images.train.shape[1], size=CANVAS, codec=codec_of(asked))
        runtime = replace(params.runtime, resume="never", compile="auto")
        perceptual = perceptual_distance(folder / "extractor.safetensors", CPU)
        more: dict[str, Any] = {"settings": train_of(asked), "runtime": runtime, "device": CPU, "precision": precision}
        more |= {"state_folder": folder / "state", "autoencoder": asked, "perceptual": perceptual}
        return session.begin(spec, images.train, None, data_hash=images.name, code_hash="of one run", **more)

    precision = params.runtime.precision if params.runtime.precision != "auto" else "bf16"
    speed = images_per_second(begin(10**6))
    training = begin(round(speed * seconds / 100) * 100)
    began = time.process_time()
    for _ in training.steps():
        pass
    took = time.process_time() - began
    network = training.average()
    assert isinstance(network, AutoencoderKL)
    spec = standardised(training.spec, network, images.train, precision="float32", batch=100, device=CPU)
    model_file.save(file, network=network, spec=spec, lineage={})
    write_json(told, {"seconds": took, "images": training.settings.images})
    return model_file.load(file), took


def images_per_second(training: session.Training) -> float:
    """Return the speed of training steps, after the first, by processor time."""
    steps = training.steps()
    next(steps)
    began = time.process_time()
    for _ in range(STEPS):
        next(steps)
    return STEPS * training.settings.batch_size / (time.process_time() - began)


def measured(name: str, autoencoder: Model, images: Images, extractor: Extractor, args: argparse.Namespace) -> Any:
    """Train, and measure the speed and FID after each share of the time; return what the table needs."""
    params, folder = params_of(CONTENDERS[name]), args.models / name.replace(" ", "-")
    told = folder / "measured.json"
    if told.is_file():
        return json.loads(told.read_text())
    snapshots = tuple(60 * args.minutes * share for share in SNAPSHOTS)
    of = autoencoder if name == "latents" else None
    contender = Ours(params, labels=False, snapshots=snapshots, autoencoder=of)
    budget = Budget(60 * args.minutes, clock=time.process_time)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{EMA}.safetensors"
    kept = [EMA] if file.is_file() else contender.train(images, budget, folder)
    result: dict[str, Any] = {"images_seen": model_file.load(file).lineage["images_seen"], "fid": {}}
    if name in args.without_fid:
        np.save(folder / f"{EMA}.npy", file_drawer_of(folder, EMA, params)(10, 0, contender.default).numpy())
        write_json(told, result)
        return result
    held_out = describe(extractor, images.test, device=CPU, progress=False, what="held-out")
    for weights in kept:
        if not weights.startswith(EMA):
            continue
        drawn = file_drawer_of(folder, weights, params)(args.images, 0, contender.default)
        made = describe(extractor, drawn.numpy(), device=CPU, progress=False, what="generated")
        result["fid"][weights] = frechet_distance(made, held_out)
        np.save(folder / f"{weights.replace(' ', '_')}.npy", drawn.numpy()[:100])
    write_json(told, result)
    return json.loads(told.read_text())


def speeds(autoencoder: Model, images: Images, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Measure images per second of processor time in training and in sampling, the contenders in turns."""
    training: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    for name, patch in CONTENDERS.items():
        params = params_of(patch)
        contender = Ours(params, labels=False, autoencoder=autoencoder if name == "latents" else None)
        place = folder / "speeds" / name.replace(" ", "-")
        place.mkdir(parents=True, exist_ok=True)
        begun = contender.begin(images, place)
        contender._save(begun, begun.average(), place, EMA)
        draw, steps = file_drawer_of(place, EMA, params), begun.steps()
        next(steps)
        draw(DRAWN, 0, contender.default)
        training[name] = partial(_per_second, partial(_take, steps), STEPS * params.train.batch_size)
        sampling[name] = partial(_per_second, partial(draw, DRAWN, 0, contender.default), DRAWN)
    return {"training": take_turns(training, rounds=ROUNDS), "sampling": take_turns(sampling, rounds=ROUNDS)}


def _take(steps: Iterator[Any]) -> None:
    for _ in range(STEPS):
        next(steps)


def _per_second(work: Callable[[], object], images: int) -> float:
    began = time.process_time()
    work()
    return images / (time.process_time() - began)


def file_drawer_of(folder: Path, weights: str, params: Params) -> Any:
    return file_drawer(folder / f"{weights.replace(' ', '_')}.safetensors", params.runtime)


def main() -> None:
    args = parse()
    digits = load_images(args.data, size=28) if args.data else load_images(None, size=24)
    train, test = (canvases(part, n, seed=seed) for part, n, seed in (
        (digits.train, args.train, 0), (digits.test, max(args.images, 200), 1)))  # fmt: skip
    images = Images(f"Two of {digits.name} on {CANVAS}x{CANVAS}", train, None, test, None)
    params, file = params_of(1), args.models / "extractor.safetensors"
    args.models.mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        splits = (SimpleNamespace(images=each, labels=None) for each in (train, test))
        made = train_extractor(
            *splits,
            kind="rotation",
            classes=0,
            settings=replace(params.features, images=20_000),
            device=CPU,
            progress=False,
        )
        extractor_file.save(made, file)
    extractor = extractor_file.load_extractor(file)
    assert isinstance(extractor, Extractor)
    autoencoder, seconds = autoencoder_of(params, images, 60 * args.autoencoder_minutes, args.models)
    assert autoencoder.codec is not None
    figures = measure_reconstruction(
        autoencoder.codec,
        train,
        test,
        extractor=extractor,
        settings=params.evaluate,
        n=len(test),
        seed=0,
        device=CPU,
        precision="float32",
        batch=100,
        progress=False,
    )
    print(json.dumps({name: figures[name] for name in ("psnr", "ssim", "reconstruction_fid", "decoded")}), flush=True)
    results = {}
    for name in args.contenders:
        results[name] = measured(name, autoencoder, images, extractor, args)
        print(name, results[name], flush=True)
    if set(results) == set(CONTENDERS):
        if args.picture:
            draw_picture(args, images, autoencoder)
        some = replace(images, train=images.train[:1000])
        write(args.output, report(args, images, results, figures, seconds, speeds(autoencoder, some, args.models)))


def draw_picture(args: argparse.Namespace, images: Images, autoencoder: Model) -> None:
    """Write held-out images, what the autoencoder restores of them, and samples of each contender, a row each."""
    rows = [images.test[:10], restored_images(autoencoder, images.test[:10], precision="float32", batch=10)]
    rows += [np.load(args.models / name.replace(" ", "-") / f"{EMA}.npy")[:10] for name in CONTENDERS]
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    grid(torch.from_numpy(np.concatenate(rows)), columns=10).save(args.picture)


def report(
    args: argparse.Namespace,
    images: Images,
    results: dict[str, Any],
    figures: dict[str, Any],
    seconds: float,
    speed: dict[str, dict[str, list[float]]],
) -> str:
    rows, first = [], next(iter(CONTENDERS))
    for name, result in results.items():
        fids, before = result["fid"], seconds / 60 if name == "latents" else 0.0
        rows.append(
            {
                "what diffuses": name,
                **{
                    f"{what}, images/s (times pixels)": f"{statistics.median(speed[what][name]):.1f} "
                    f"({ratio(speed[what][name], speed[what][first])})"
                    for what in ("training", "sampling")
                },
                "images seen": f"{result['images_seen']:,}",
                **{
                    f"FID after {share * args.minutes:g} min": f"{fids[weights]:.1f}" if weights in fids else "–"
                    for share, weights in (
                        (1.0, EMA),
                        *((s, f"{EMA} after {s * args.minutes:g} min") for s in SNAPSHOTS),
                    )
                },
                "minutes before, for the autoencoder": f"{before:.1f}",
            }
        )
    decoded = figures["decoded"]
    return "\n\n".join(
        [
            f"# Pixels and latents of {CANVAS}x{CANVAS} images, {args.minutes:g} minutes of processor time each",
            f"{images.name}: {len(images.train):,} training and {len(images.test):,} held-out images. "
            f"{args.images:,} images are drawn for each FID, by {params_of(1).sample.steps} steps. The autoencoder: "
            f"PSNR {figures['psnr']:.1f} dB, SSIM {figures['ssim']:.3f} on held-out images; FID of as many training "
            f"images after it {decoded['fid']['value']:.2f}, before it {decoded['floor']['value']:.2f}. The settings "
            "are those of recipes/methods/latents-64.yaml; the U-Net is the same but for its patch. Speeds were "
            f"measured in {ROUNDS} turns; sampling includes decoding.",
            table(rows),
            f"{machine()}. {command()}",
        ]
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of MNIST's unpacked files; without it scikit-learn's digits")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--autoencoder-minutes", type=float, default=3.0)
    parser.add_argument("--images", type=int, default=500, help="drawn and held out for each FID")
    parser.add_argument("--train", type=int, default=20000, help="training images")
    parser.add_argument("--picture", type=Path)
    parser.add_argument(
        "--without-fid", nargs="+", choices=list(CONTENDERS), default=[], help="those that draw too slowly for one"
    )
    add_training_arguments(parser, minutes=4.0, models=Path("benchmarks/models/latents"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
