"""Trainings of contenders and what they leave in a folder each, for one benchmark to make and another to use."""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from common import Images, add_training_arguments

from contenders import Budget, Contender
from contenders.huggingface import Diffusers
from contenders.lucidrains import Lucidrains
from contenders.ours import Ours
from ddpm import overlay, recipe_file
from ddpm.files import write_json
from ddpm.params import Params

ROOT = Path(__file__).parents[2]
MODELS = Path(".state/benchmarks/time_to_fid")
"""Where they are kept unless somebody says otherwise."""
NAMES = ("ours", "ours-unlabelled", "diffusers", "lucidrains")
RECORD = "training.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every benchmark of these trainings has."""
    parser.add_argument("--data", type=Path, help="a folder of MNIST's files, or a prepared one; default: the digits")
    parser.add_argument("--images", type=int, default=2_000, help="generated, for each FID")
    parser.add_argument("--first", type=int, default=500, help="of these, to choose a peer's weights, raw or EMA, by")
    parser.add_argument("--judge-images", type=int, default=120_000, help="seen in the judge's training")
    parser.add_argument("--params", type=Path, help="default: params.yaml with the values of the recipe that fits")
    parser.add_argument("--recipe", type=Path, help="a file with values that differ from those of params")
    add_training_arguments(parser, minutes=10.0, models=MODELS)


def params_for(images: Images, params: Path | None, recipe: Path | None) -> Params:
    """Return the parameters of this project's training on these images.

    Without `params`, params.yaml; without both, params.yaml with the recipe of recipes/ that fits the images.
    """
    if params is None and recipe is None:
        _, channels, size, _ = images.train.shape
        number = len(images.train) + len(images.test)
        ranked = recipe_file.by_distance(ROOT / "recipes", channels=channels, size=size, images=number)
        recipe = next((path for path, _, fits in ranked if fits), None)
    return overlay.load(params or ROOT / "params.yaml", recipe)


@dataclass(frozen=True)
class Trained:
    """What a training left in its folder."""

    weights: list[str]
    images_seen: int
    seconds: float
    data: str


def make_contender(
    name: str, params: Params, *, seed: int | None = None, snapshots: tuple[float, ...] = ()
) -> Contender:
    """The contender of this name; the seed of training and the snapshots, in seconds, are this project's alone.

    `seed` None is that of `params`.
    """
    if name == "diffusers":
        return Diffusers()
    if name == "lucidrains":
        return Lucidrains()
    if seed is not None:
        params = replace(params, train=replace(params.train, seed=seed))
    return Ours(params, labels=name == "ours", snapshots=snapshots)


def train(
    contender: Contender,
    images: Images,
    *,
    seconds: float,
    folder: Path,
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Trains for so long; the folder holds the weights and, written last, the record of the training."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    budget = Budget(seconds, clock=clock)
    weights = contender.train(images, budget, folder)
    trained = Trained(weights, budget.done, budget.spent, images.name)
    write_json(folder / RECORD, vars(trained))
    return trained


def trained_before(folder: Path, *, data: str) -> Trained | None:
    """The training that this folder holds, of these data; None where there is none."""
    path = folder / RECORD
    if not path.is_file():
        return None
    trained = Trained(**json.loads(path.read_text()))
    return trained if trained.data == data else None
