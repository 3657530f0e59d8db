"""FID by time of a training on CIFAR-10 on a GPU, by the pipeline's own extractor."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from common import Images, load_images
from contenders import EMA, Budget
from contenders.kept import ROOT
from contenders.ours import Ours
from gpu_run import Found, Run

from ddpm import overlay
from ddpm.data.reading.dataset import Split
from ddpm.errors import UserError
from ddpm.measuring.features.extractor import Described, Extractor, describe
from ddpm.measuring.features.extractor_training import train_extractor
from ddpm.measuring.frechet import frechet_distance

if TYPE_CHECKING:
    from ddpm.params import Params

MOST_MINUTES = 10.0
MEASURING_SECONDS = 150.0
"""Kept free for reading the images, the extractor, and drawing."""
SHARES = {"FID after 10 % of the time": 0.1, "FID after 30 % of the time": 0.3, "FID after 60 % of the time": 0.6}
DRAWN = 5000


def parameters(run: Run) -> "Params":
    """Return the recipe for colour images with a network and a batch for a GPU.

    Not tuned on a GPU: eight times the channels' products and eight times the batch of what one CPU core trains.
    """
    params = overlay.load(ROOT / "params.yaml", ROOT / "recipes" / "colour-32.yaml")
    params = replace(
        params,
        network=replace(params.network, width=192, blocks=3, head_channels=64),
        train=replace(params.train, batch_size=256),
        runtime=replace(params.runtime, sample_batch=1000),
    )
    return run.tiny_network(params)


def fid_by_time(run: Run) -> Found:
    """Train for the time that is left, at most MOST_MINUTES, and measure the average at shares of it.

    Raises UserError without images.
    """
    if run.data is None and not run.tiny:
        raise UserError(
            "part cifar10 needs images: --data with a zip of train/CLASS/ and test/CLASS/, or a prepared folder"
        )
    images = load_images(run.data, size=8 if run.data is None else 32)
    extractor = _extractor(run, images)
    drawn = min(DRAWN, len(images.train), 40 if run.tiny else DRAWN)
    reference = _described(run, extractor, images.test)
    rows = np.random.default_rng(0).permutation(len(images.train))[:drawn]
    floor = frechet_distance(_described(run, extractor, images.train[np.sort(rows)]), reference)
    yield "floor: FID of as many real images", floor
    seconds = 2.0 if run.tiny else max(30.0, min(60 * MOST_MINUTES, run.left - MEASURING_SECONDS))
    contender = Ours(parameters(run), snapshots=tuple(share * seconds for share in SHARES.values()))
    with tempfile.TemporaryDirectory() as temporary:
        folder, budget = Path(temporary), Budget(seconds)
        kept = contender.train(images, budget, folder)
        yield "minutes of training", budget.spent / 60
        yield "images seen", float(budget.done)
        snapshots = [weights for weights in kept if weights.startswith(f"{EMA} ")]
        for name, weights in zip([*SHARES][: len(snapshots)], snapshots, strict=True):
            yield name, _fid(run, contender, folder, weights, extractor, reference, drawn)
        end = _fid(run, contender, folder, EMA, extractor, reference, drawn)
        yield "FID at the end", end
        yield "FID at the end over the floor", end / floor


def _extractor(run: Run, images: Images) -> Extractor:
    settings = run.params().features
    if run.tiny:
        settings = replace(settings, images=256, dim=16)
    train, test = Split(images.train, images.train_labels), Split(images.test, images.test_labels)
    assert images.train_labels is not None
    return train_extractor(
        train, test, kind="classifier", classes=int(images.train_labels.max()) + 1, settings=settings,
        device=run.device, progress=False,
    )  # fmt: skip


def _described(run: Run, extractor: Extractor, images: np.ndarray) -> Described:
    return describe(extractor, images, device=run.device, progress=False, what="images")


def _fid(
    run: Run, contender: Ours, folder: Path, weights: str, extractor: Extractor, reference: Described, n: int
) -> float:
    drawn = contender.drawer(folder, weights)(n, 0, contender.default)
    return frechet_distance(_described(run, extractor, drawn.numpy()), reference)
