"""Do the pictures of a model of captions show their captions, on real captioned pictures with thousands of words?

    python benchmarks/words_tiles.py captioned-tiles.zip --output benchmarks/results/words_tiles.md

An archive of pictures of 32x32 with captions and held-out pictures (`test/`) is prepared as the pipeline does, and a
model of captions is trained on the training pictures. A small contrastive model of images and captions, trained on the
same pictures, then says of every drawn picture whether its own caption fits better than 99 others. Trained models are
kept in `--models` and are not trained again.
"""

import as_in_stages  # noqa: F401, I001
import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from captioned_training import trained
from common import command, machine, save_pictures, table, write
from retrieval import Contrastive, retrieval, train_contrastive

from ddpm import model_file, overlay
from ddpm.data.preparing.prepare import prepare
from ddpm.data.reading.dataset import read_split
from ddpm.generation.generate import generate
from ddpm.generation.recipe import recipe_in
from ddpm.measuring import fidelity
from ddpm.measuring.features.extractor import FeatureExtractor
from ddpm.measuring.features.extractor_training import train_extractor
from ddpm.model_file import Model
from ddpm.params import Params
from ddpm.settings import as_dict
from ddpm.text import conditions

ROOT = Path(__file__).parents[1]
GUIDANCE = (1.0, 2.0, 4.0)
CPU = torch.device("cpu")


def params_of(args: argparse.Namespace) -> Params:
    params = overlay.load(ROOT / "params.yaml", ROOT / "recipes" / "colour-32.yaml")
    train = replace(params.train, images=args.images, decay_images=args.images * 4 // 5, flip=False)
    return replace(
        params,
        condition="text",
        data=replace(params.data, source="archive", path=str(args.archive), captions=True, labels=False),
        network=replace(params.network, width=args.width),
        text=replace(params.text, length=16, width=128),
        train=train,
    )


def prepared(params: Params, folder: Path) -> tuple[tuple[np.ndarray, list[str]], tuple[np.ndarray, list[str]]]:
    """Return the pictures and captions of the training set and of the held-out one."""
    prepare(params.data, raw=Path(params.data.path), prepared=folder, workers=1, progress=False)
    splits = [read_split(folder, name) for name in ("train", "test")]
    first, second = ((np.array(split.images[:]), [each or "" for each in split.captions()]) for split in splits)
    return first, second


def drawn(model: Model, params: Params, captions: Sequence[str], *, guidance: float, told: bool = True) -> np.ndarray:
    recipe = replace(recipe_in(params.sample, params.runtime.precision), guidance=guidance)
    condition = conditions.of_texts(model.spec, [caption if told else None for caption in captions])
    images = generate(model, recipe, n=len(captions), seed=0, condition=condition, batch=128)
    return images.numpy()


def fid(images: np.ndarray, train: np.ndarray, test: np.ndarray, extractor: FeatureExtractor, params: Params) -> str:
    """Return the FID with its interval, and that of the floor."""
    drawing, settings = as_dict(recipe_in(params.sample, "float32")), params.evaluate
    given = {"extractor": extractor, "settings": settings, "drawing": drawing}
    record, _ = fidelity.measure_images(images, train, test, seed=0, device=CPU, progress=False, **given)
    values = record.to_json()
    return f"{values['fid']:.3g} ({values['floor']['fid']:.3g})"


def diffusion(params: Params, pictures: np.ndarray, captions: list[str], folder: Path) -> tuple[Model, float]:
    """Return the model of captions and the minutes of its training, from the folder if it is there."""
    path = folder / "model.safetensors"
    if not path.is_file():
        began = time.process_time()
        model = trained(pictures, captions, params)
        minutes = (time.process_time() - began) / 60
        model_file.save(path, network=model.network, spec=model.spec, lineage={"minutes": minutes})
    model = model_file.load(path)
    return model, float(model.lineage["minutes"])


def rows_of(
    reader: Contrastive,
    model: Model,
    params: Params,
    extractor: FeatureExtractor,
    sets: dict[str, tuple[np.ndarray, list[str]]],
    kept: dict[str, np.ndarray],
) -> list[dict[str, str]]:
    rows = []
    for name, (pictures, captions) in sets.items():
        shown = {"real pictures": pictures}
        for guidance in GUIDANCE:
            shown[f"guidance {guidance:g}"] = drawn(model, params, captions, guidance=guidance)
        shown["guidance 1, without the caption"] = drawn(model, params, captions, guidance=1.0, told=False)
        for how, images in shown.items():
            found = retrieval(reader, images, captions)
            error = float(np.std(found)) / len(found) ** 0.5
            compared = fid(images, *(sets[key][0] for key in sets), extractor, params) if name == "held-out" else ""
            rows.append(
                {
                    "captions": name,
                    "pictures": how,
                    "own caption is the nearest of 100": f"{found.mean():.1%} ± {error:.1%}",
                    "FID (floor)": "" if how == "real pictures" else compared,
                }
            )
            kept[f"{name} {how}".replace(",", "")] = images
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    args = parse()
    params = params_of(args)
    with tempfile.TemporaryDirectory() as folder:
        (pictures, captions), held_out = prepared(params, Path(folder) / "prepared")
    model, minutes = diffusion(params, pictures, captions, args.models)
    reader = train_contrastive(pictures, captions, epochs=args.epochs)
    extractor = train_extractor(
        *(SimpleNamespace(images=each, labels=None) for each in (pictures, held_out[0])),
        kind="rotation",
        classes=0,
        settings=params.features,
        device=CPU,
        progress=False,
    )
    rows_seen = np.linspace(0, len(pictures) - 1, len(held_out[1])).astype(int)
    sets = {"training": (pictures[rows_seen], [captions[row] for row in rows_seen]), "held-out": held_out}
    kept: dict[str, np.ndarray] = {}
    rows = rows_of(reader, model, params, extractor, sets, kept)
    write(args.output, report(args, rows, minutes, len(pictures), held_out[1]))
    if args.pictures:
        save_pictures(args.pictures, kept)


def report(args: argparse.Namespace, rows: list[dict[str, str]], minutes: float, n: int, held_out: list[str]) -> str:
    lines = [
        "# Do the pictures of a model of captions show their captions?",
        f"{n:,} captioned pictures of 32x32 from {args.archive.name} are trained on; {len(held_out):,} with "
        f"{len(set(held_out)):,} other captions are held out. The model has {args.width} channels and saw "
        f"{args.images:,} images in {minutes:.0f} minutes of one core's time.",
        "A small contrastive model of images and captions (Radford et al. 2021) was trained on the same training "
        "pictures. The third column says how often the caption of a picture is nearer to it than 99 other captions "
        "(R-precision, Xu et al. 2018), with its standard error; guessing finds 1 %. Real pictures show how often that "
        "model itself is right. FID is against the held-out pictures, by an extractor that was trained on rotations; "
        "the floor is that of as many training pictures.",
        table(rows),
        f"{machine()}; other programs used the machine, too.",
        f"`{command()}`",
    ]
    return "\n\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="a zip with train/ and test/, each with captions")
    parser.add_argument("--images", type=int, default=56_000, help="images seen in training")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=40, help="of the contrastive model")
    parser.add_argument("--models", type=Path, default=Path(".state/benchmarks/words_tiles"))
    parser.add_argument("--pictures", type=Path, help="a folder for pictures of each row")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
