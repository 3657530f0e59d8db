"""How the small extractor is trained: on the data's own labels or, without labels, on four rotations of each image."""

import math
import typing
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam

from ddpm.compute.processes import any_of, leads, processes, share_of
from ddpm.errors import UserError
from ddpm.images import Images, Sharded, to_model_range
from ddpm.measuring.features.classifier import Classifier
from ddpm.measuring.features.extractor import Extractor, Kind, describe
from ddpm.measuring.features.settings import Features
from ddpm.seeding import seed_of

SHARDS = 64
"""Images are drawn from at most so many shards of the data, so that no draw has to fetch another one."""


class LabelledImages(typing.Protocol):
    """A split of the data."""

    @property
    def images(self) -> Images: ...

    @property
    def labels(self) -> np.ndarray | None:
        """int64 [N]"""


def choose_kind(settings: Features, *, classes: int) -> Kind:
    """What `features.extractor` comes to for data with so many classes (0: no labels).

    Raises UserError for a choice that this data cannot fulfil.
    """
    choice = settings.extractor
    if choice == "auto":
        if settings.inception_weights is not None:
            return "inception"
        return "classifier" if classes > 1 else "rotation"
    if choice == "classifier" and classes < 2:
        raise UserError(
            f"features.extractor is classifier, but the data have {classes} classes, expected at least 2; "
            "set it to auto or rotation"
        )
    return choice


def train_extractor(
    train: LabelledImages,
    test: LabelledImages,
    *,
    kind: Literal["classifier", "rotation"],
    classes: int,
    settings: Features,
    device: torch.device,
    progress: bool,
    together: bool = False,
) -> Extractor:
    """A classifier of `train`'s labels, or of rotations, with its accuracy on `test`.

    Every draw is a function of the seed and of the images seen, so that the same seed gives the same weights on
    the same machine. `together`: all processes of the stage call it and share every batch, which changes the weights
    by no more than rounding. Raises UserError if the loss does not stay finite, and for more processes than images in
    a batch.
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
    # The same sums in the same order every time, on CUDA too.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
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
            # Processes are averaged, so each counts as its share of the batch.
            (loss * (len(x) * (processes() if together else 1) / settings.batch_size)).backward()
            optimizer.step()
            schedule.step()
            if shown and step % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")
    if any_of(not torch.isfinite(loss))[0] if together else not torch.isfinite(loss):
        raise UserError(f"the extractor's training ended with a loss of {loss.item()}; lower features.lr")
    network.eval().requires_grad_(False)
    untested = Extractor(network, kind, accuracy=0.0)
    described = describe(untested, train.images, device=device, progress=progress, what="training", together=together)
    network.standardise(described.features)
    return Extractor(network, kind, accuracy=_accuracy(untested, test, device=device))


def _share_of_batch(settings: Features) -> slice:
    if processes() > settings.batch_size:
        raise UserError(
            f"features.batch_size is {settings.batch_size}, which {processes()} processes cannot share; "
            "raise it or start fewer"
        )
    return share_of(settings.batch_size)


def rotated(images: Tensor, quarters: Tensor) -> Tensor:
    """Each image [N,C,S,S] turned left by so many quarters [N] in 0..3."""
    turned = torch.empty_like(images)
    for k in range(4):
        turned[quarters == k] = torch.rot90(images[quarters == k], k, dims=(2, 3))
    return turned


def shifted(images: Tensor, draw: torch.Generator) -> Tensor:
    """Each image moved by up to an eighth of its size, by whole pixels; the border goes on where it was.

    The only augmentation: mirrored writing is no writing, and what blurs or adds noise would make the features
    blind to blur and noise, which FID is to see.
    """
    n, _, height, width = images.shape
    reach = max(1, height // 8)
    down, right = torch.randint(-reach, reach + 1, (2, n, 1), generator=draw)
    rows = (torch.arange(height) + down).clamp(0, height - 1)[:, None, :, None]
    columns = (torch.arange(width) + right).clamp(0, width - 1)[:, None, None, :]
    return images[torch.arange(n)[:, None, None, None], torch.arange(images.shape[1])[:, None, None], rows, columns]


def _accuracy(extractor: Extractor, test: LabelledImages, *, device: torch.device) -> float:
    def right(targets: Tensor, turns: int = 0) -> int:
        described = describe(extractor, test.images, device=device, progress=False, what="held-out images", turns=turns)
        return int((described.logits.argmax(dim=1) == targets).sum())

    n = len(test.images)
    if extractor.kind == "classifier":
        return right(torch.from_numpy(np.array(test.labels))) / n
    return sum(right(torch.full((n,), k), turns=k) for k in range(4)) / (4 * n)


def _some_shards(images: Images, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of at most SHARDS shards: what to add to a place in them to have the row in the set, and where each ends."""
    sizes = np.array(images.sizes if isinstance(images, Sharded) else [len(images)], np.int64)
    order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed_of("extractor shards", seed)))
    chosen = np.sort(order[:SHARDS].numpy())
    ends = np.cumsum(sizes[chosen])
    return np.cumsum(sizes)[chosen] - ends, ends
