"""Train the small extractor on the data's own labels or, without labels, on four rotations of each image."""

import math
import typing

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam

from ddpm.compute.hardware import repeatable_float32
from ddpm.compute.processes import any_of, leads, processes, share_of
from ddpm.errors import UserError
from ddpm.images import Images, Sharded, to_model_range
from ddpm.measuring.features.classifier import Classifier
from ddpm.measuring.features.extractor import Extractor, describe
from ddpm.measuring.features.settings import Features, Kind, Trained
from ddpm.measuring.features.subset import Subset, draw_rows
from ddpm.seeding import seed_of

SHARDS = 64
"""Images are drawn from at most this many shards of the data, so that the draws do not fetch all of them."""


class LabelledImages(typing.Protocol):
    """A split of the data."""

    @property
    def images(self) -> Images: ...

    @property
    def labels(self) -> np.ndarray | None:
        """int64 [N]"""


def choose_kinds(settings: Features, *, classes: int) -> tuple[Kind, ...]:
    """Return the one or two extractors that `features` selects for data with `classes` classes (0: no labels).

    Raises UserError for a classifier of data with fewer than two classes, and for the same extractor twice.
    """
    labelled = classes > 1
    first, second = settings.extractor, settings.second
    if first == "auto":
        first = "inception" if settings.inception_weights is not None else "classifier" if labelled else "rotation"
    for key, kind, others in (("extractor", first, "auto or rotation"), ("second", second, "rotation or null")):
        if kind == "classifier" and not labelled:
            raise UserError(
                f"features.{key} is classifier, but the data have {classes} classes, expected at least 2; "
                f"set it to {others}"
            )
    if first == second:
        raise UserError(
            f"features.second is {second}, but with features.extractor {settings.extractor} the first extractor is "
            "that already; choose another one, or null"
        )
    return (first,) if second is None else (first, second)


def train_extractor(
    train: LabelledImages,
    test: LabelledImages,
    *,
    kind: Trained,
    classes: int,
    settings: Features,
    device: torch.device,
    progress: bool,
    together: bool = False,
) -> Extractor:
    """Return a classifier of `train`'s labels, or of rotations, with its accuracy on `test`.

    Every draw depends only on the seed and the images seen, so the same seed gives the same weights on the same
    machine. `together`: all processes of the stage call it and share every batch, which changes the weights by rounding
    only. Raises UserError if the loss becomes non-finite, and for more processes than images in a batch.
    """
    from tqdm import tqdm

    share = _share_of_batch(settings) if together else slice(settings.batch_size)

    _, channels, size, _ = train.images.shape
    to_row, ends = _some_shards(train.images, seed=settings.seed)
    outputs = classes if kind == "classifier" else 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("extractor", settings.seed))
        network = Classifier(channels=channels, size=size, classes=outputs, dim=settings.dim).to(device)
    logits_of: nn.Module = DistributedDataParallel(network) if together and processes() > 1 else network
    steps = math.ceil(settings.images / settings.batch_size)
    optimizer = Adam(network.parameters(), lr=settings.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=max(steps, 2))

    shown = progress and leads()
    bar = tqdm(range(steps), desc="extractor", unit_scale=settings.batch_size, unit="image", disable=not shown)
    with repeatable_float32():
        for step in bar:
            draw = torch.Generator().manual_seed(seed_of("extractor", settings.seed, step * settings.batch_size))
            places = torch.randint(int(ends[-1]), (settings.batch_size,), generator=draw).numpy()
            rows = places + to_row[np.searchsorted(ends, places, side="right")]
            images = torch.from_numpy(train.images[rows])
            if kind == "classifier":
                assert train.labels is not None
                targets = torch.from_numpy(np.asarray(train.labels[rows]))
            else:
                targets = torch.randint(4, (len(images),), generator=draw)
                images = rotated(images, targets)
            x = to_model_range(shifted(images, draw)[share].to(device))
            loss = F.cross_entropy(logits_of(x)[1], targets[share].to(device))
            optimizer.zero_grad()
            # DDP averages the gradients, so each process is weighted by its share of the batch.
            (loss * (len(x) * (processes() if together else 1) / settings.batch_size)).backward()
            optimizer.step()
            schedule.step()
            if shown and step % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")
    if any_of(not torch.isfinite(loss))[0] if together else not torch.isfinite(loss):
        raise UserError(
            f"the extractor's training ended with loss {loss.item()}, expected a finite one; lower features.lr"
        )
    network.eval().requires_grad_(False)
    untested = Extractor(network, kind, accuracy=0.0)
    known = Subset(train.images, rows_described(train.images, settings))
    described = describe(untested, known, device=device, progress=progress, what="training", together=together)
    network.standardise(described.features)
    return Extractor(network, kind, accuracy=_accuracy(untested, test, settings, device=device, together=together))


def _share_of_batch(settings: Features) -> slice:
    if processes() > settings.batch_size:
        raise UserError(
            f"features.batch_size is {settings.batch_size}, which {processes()} processes cannot share; "
            "raise it or start fewer"
        )
    return share_of(settings.batch_size)


def rotated(images: Tensor, quarters: Tensor) -> Tensor:
    """Return each image [N,C,S,S] rotated left by its number of quarters [N] in 0..3."""
    turned = torch.empty_like(images)
    for k in range(4):
        turned[quarters == k] = torch.rot90(images[quarters == k], k, dims=(2, 3))
    return turned


def shifted(images: Tensor, draw: torch.Generator) -> Tensor:
    """Return each image shifted by up to an eighth of its height, by whole pixels; border pixels are repeated.

    This is the only augmentation: mirrored digits and letters are not valid ones, and blurring or adding noise would
    make the features insensitive to blur and noise, which FID must detect.
    """
    n, _, height, width = images.shape
    reach = max(1, height // 8)
    down, right = torch.randint(-reach, reach + 1, (2, n, 1), generator=draw)
    rows = (torch.arange(height) + down).clamp(0, height - 1)[:, None, :, None]
    columns = (torch.arange(width) + right).clamp(0, width - 1)[:, None, None, :]
    return images[torch.arange(n)[:, None, None, None], torch.arange(images.shape[1])[:, None, None], rows, columns]


def _accuracy(
    extractor: Extractor, test: LabelledImages, settings: Features, *, device: torch.device, together: bool
) -> float:
    images = Subset(test.images, rows_described(test.images, settings))

    def right(targets: Tensor, turns: int = 0) -> int:
        described = describe(
            extractor, images, device=device, progress=False, what="held-out", turns=turns, together=together
        )
        return int((described.logits.argmax(dim=1) == targets).sum())

    n = len(images)
    if extractor.kind == "classifier":
        assert test.labels is not None
        return right(torch.from_numpy(np.asarray(test.labels[images.rows]))) / n
    return sum(right(torch.full((n,), k), turns=k) for k in range(4)) / (4 * n)


def rows_described(images: Images, settings: Features) -> np.ndarray:
    """Return all rows or, of more than features.standardise_images, a seeded subset of some shards, in ascending order.

    It is smaller than that if these shards are.
    """
    if len(images) <= settings.standardise_images:
        return np.arange(len(images))
    to_row, ends = _some_shards(images, seed=settings.seed)
    n, of = min(settings.standardise_images, int(ends[-1])), int(ends[-1])
    places = np.sort(draw_rows(n, of, seed=seed_of("extractor subset", settings.seed)))
    return places + to_row[np.searchsorted(ends, places, side="right")]


def _some_shards(images: Images, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw at most SHARDS shards, and number their images consecutively.

    Return two int64 arrays, one entry per drawn shard: what to add to such a number to get the row in the set, and the
    number at which the shard ends.
    """
    sizes = np.array(images.sizes if isinstance(images, Sharded) else [len(images)], np.int64)
    order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed_of("extractor shards", seed)))
    chosen = np.sort(order[:SHARDS].numpy())
    ends = np.cumsum(sizes[chosen])
    return np.cumsum(sizes)[chosen] - ends, ends
