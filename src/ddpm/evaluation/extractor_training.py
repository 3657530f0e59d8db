"""How the small extractor is trained: on the data's own labels or, without labels, on four rotations of each image."""

import math
import typing
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.config import Features
from ddpm.errors import UserError
from ddpm.evaluation.extractor import Extractor, Kind, describe
from ddpm.images import to_model_range
from ddpm.networks.adam import Adam
from ddpm.networks.classifier import Classifier
from ddpm.seeding import seed_of


class LabelledImages(typing.Protocol):
    """A split of the data."""

    @property
    def images(self) -> np.ndarray:
        """uint8 [N,C,H,W]"""

    @property
    def labels(self) -> np.ndarray | None:
        """int64 [N]"""


def choose_kind(settings: Features, *, classes: int) -> Kind:
    """What `features.extractor` comes to for data with so many classes (0: no labels).

    Raises UserError for a choice that this data or these settings cannot fulfil.
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
    if choice == "inception" and settings.inception_weights is None:
        raise UserError(
            "features.extractor is inception, but features.inception_weights is null; give the path of "
            "weights-inception-2015-12-05-6726825d.pth there"
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
) -> Extractor:
    """A classifier of `train`'s labels, or of rotations, with its accuracy on `test`.

    Every draw is a function of the seed and of the images seen, so that the same seed gives the same weights on
    the same machine. Raises UserError if the loss does not stay finite.
    """
    from tqdm import tqdm

    n_train, channels, size, _ = train.images.shape
    outputs = classes if kind == "classifier" else 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("extractor", settings.seed))
        network = Classifier(channels=channels, size=size, classes=outputs, dim=settings.dim).to(device)
    steps = math.ceil(settings.images / settings.batch_size)
    optimizer = Adam(network.parameters(), lr=settings.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=max(steps, 2))

    bar = tqdm(range(steps), desc="extractor", unit_scale=settings.batch_size, unit="image", disable=not progress)
    # The same sums in the same order every time, on CUDA too.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        for step in bar:
            draw = torch.Generator().manual_seed(seed_of("extractor", settings.seed, step * settings.batch_size))
            rows = torch.randint(n_train, (settings.batch_size,), generator=draw).numpy()
            images = torch.from_numpy(train.images[rows])
            if kind == "classifier":
                assert train.labels is not None
                targets = torch.from_numpy(np.asarray(train.labels[rows]))
            else:
                targets = torch.randint(4, (len(images),), generator=draw)
                images = rotated(images, targets)
            x = to_model_range(shifted(images, draw).to(device))
            loss = F.cross_entropy(network(x)[1], targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if progress and step % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")
    if not torch.isfinite(loss):
        raise UserError(f"the extractor's training ended with a loss of {loss.item()}; lower features.lr")
    network.eval().requires_grad_(False)
    untested = Extractor(network, kind, accuracy=0.0)
    network.standardise(describe(untested, train.images, device=device, progress=progress, what="training").features)
    return Extractor(network, kind, accuracy=_accuracy(untested, test, device=device))


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
    def right(images: np.ndarray, targets: Tensor) -> int:
        described = describe(extractor, images, device=device, progress=False, what="held-out images")
        return int((described.logits.argmax(dim=1) == targets).sum())

    n = len(test.images)
    if extractor.kind == "classifier":
        return right(test.images, torch.from_numpy(np.asarray(test.labels))) / n
    return sum(right(np.rot90(test.images, k, axes=(2, 3)), torch.full((n,), k)) for k in range(4)) / (4 * n)
