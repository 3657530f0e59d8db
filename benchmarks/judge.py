"""The judges of `time_to_fid` and `sampling`: classifiers of real images, apart from every training.

The values of recipes/ were chosen by their FID on the same held-out images (docs/performance.md), so they favour this
project a little; the peers have their own default values.

Both differ from the extractor of the pipeline's own metrics (residual blocks with group normalisation, trained on
shifted images) and from each other in architecture, augmentation, optimizer and seed:

- `convolutions`: plain convolutions with batch normalisation, trained by SGD on rotated and enlarged images;
- `patches`: patches mixed by depthwise convolutions and layer normalisation, as in ConvNeXt (Liu et al. 2022), trained
  by AdamW on shifted, brighter and darker images with a part of each hidden.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from common import Images
from torch import Tensor, nn

from ddpm.errors import UserError
from ddpm.images import to_model_range
from ddpm.measuring.features.extractor import Described
from ddpm.measuring.frechet import frechet_distance

WIDTHS = (16, 32, 48)
DIM = sum(WIDTHS)
BATCH = 128
SCALED_BY = 10_000
"""Training images, the first ones, whose features define mean 0 and standard deviation 1."""


class Network(nn.Module):
    """x [N,C,H,W] in [-1,1] -> features [N,96], logits [N,classes].

    The layer before the last holds the image means of all three stages: what is in an image, and how it is drawn;
    the last stage alone would hardly see noise or blur.
    """

    def __init__(self, stages: list[nn.Module], classes: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(DIM, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        means = []
        for stage in self.stages:
            x = stage(x)
            means.append(x.mean(dim=(2, 3)))
        features = torch.cat(means, dim=1)
        return features, self.head(features)


def convolutions(channels: int) -> list[nn.Module]:
    """Three stages of two 3x3 convolutions, at full, half and a quarter of the resolution."""

    def stage(c_in: int, c_out: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, padding=1, stride=stride, bias=False),
            nn.BatchNorm2d(c_out),
            nn.GELU(),
            nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.GELU(),
        )

    return [stage(c_in, c_out, 1 if c_in == channels else 2) for c_in, c_out in pairwise((channels, *WIDTHS))]


def patches(channels: int) -> list[nn.Module]:
    """Three stages of two mixing blocks; each stage begins with patches of 2x2."""

    def stage(c_in: int, c_out: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(c_in, c_out, 2, stride=2), _Mixing(c_out), _Mixing(c_out))

    return [stage(c_in, c_out) for c_in, c_out in pairwise((channels, *WIDTHS))]


class _Mixing(nn.Module):
    """x + MLP(norm(depthwise 5x5 convolution of x)): Liu et al. 2022, Sec. 2.6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.across = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.GroupNorm(1, channels)
        self.mlp = nn.Sequential(nn.Conv2d(channels, 4 * channels, 1), nn.GELU(), nn.Conv2d(4 * channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mlp(self.norm(self.across(x)))
        return x + y


@dataclass(frozen=True)
class Design:
    """What distinguishes a judge."""

    stages: Callable[[int], list[nn.Module]]
    augmented: Callable[[Tensor], Tensor]
    optimizer: Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]
    """(parameters, learning rate) -> optimizer."""
    lr: float
    """The highest learning rate."""
    seed: int


@dataclass(frozen=True)
class Judge:
    """FID against held-out real images."""

    name: str
    network: Network
    mean: Tensor
    std: Tensor
    """[96] of training images' features, by which all are made comparable: float64."""
    reference: Described
    accuracy: float
    """Share of held-out images whose class it names."""
    images: int
    """Seen in its training."""

    def describe(self, images: np.ndarray | Tensor) -> Described:
        """Features [n,96], float64, of uint8 images [n,C,H,W]."""
        features, logits = _outputs(self.network, images)
        return Described((features - self.mean) / self.std, logits)

    def fid(self, images: np.ndarray | Tensor) -> float:
        """Raises UserError for no more images than features, whose covariance has no full rank."""
        if len(images) <= DIM:
            raise UserError(f"{len(images)} images were given, but FID of {DIM} features needs more; raise --images")
        return frechet_distance(self.describe(images), self.reference)


def train_judge(images: Images, name: str = "convolutions", *, seen: int = 120_000) -> Judge:
    """The judge of this name, which has learned from `seen` training images; the same on a machine every time.

    Raises UserError for images without labels.
    """
    design = DESIGNS[name]
    if images.train_labels is None or images.test_labels is None:
        raise UserError(f"{images.name} has no labels, from which the judge learns; give labelled images")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(design.seed)
        network = Network(design.stages(images.train.shape[1]), int(images.train_labels.max()) + 1)
        labels = torch.from_numpy(np.array(images.train_labels))
        steps = max(2, seen // BATCH)
        optimizer = design.optimizer(network.parameters(), design.lr / 30)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, design.lr, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(len(labels), (BATCH,))
            x = design.augmented(to_model_range(torch.from_numpy(images.train[rows.numpy()])))
            loss = F.cross_entropy(network(x)[1], labels[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    network.eval().requires_grad_(False)
    std, mean = torch.std_mean(_outputs(network, images.train[:SCALED_BY])[0], dim=0)
    features, logits = _outputs(network, images.test)
    right = logits.argmax(dim=1) == torch.from_numpy(np.array(images.test_labels))
    reference = Described((features - mean) / std, logits)
    return Judge(name, network, mean, std, reference, float(right.double().mean()), steps * BATCH)


def _turned(x: Tensor) -> Tensor:
    """Each image turned by up to 15 degrees either way and enlarged or shrunk by up to a tenth."""
    angle = math.radians(15) * (2 * torch.rand(len(x)) - 1)
    scale = 0.9 + 0.2 * torch.rand(len(x))
    cos, sin, zero = angle.cos() * scale, angle.sin() * scale, torch.zeros(len(x))
    affine = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _disturbed(x: Tensor) -> Tensor:
    """Each image shifted by up to an eighth, brighter or darker by up to a tenth, and a random quarter of it grey."""
    n, _, height, width = x.shape
    reach = max(1, width // 8)
    rows, columns = (torch.randint(-reach, reach + 1, (n,)) for _ in range(2))
    down, across = torch.arange(height)[None] - rows[:, None], torch.arange(width)[None] - columns[:, None]
    x = x[
        torch.arange(n)[:, None, None, None],
        torch.arange(x.shape[1])[None, :, None, None],
        down.clamp(0, height - 1)[:, None, :, None],
        across.clamp(0, width - 1)[:, None, None, :],
    ]
    x = x + 0.2 * torch.rand(n, 1, 1, 1) - 0.1
    top, left = (torch.randint(0, side // 2 + 1, (n, 1)) for side in (height, width))
    inside_rows = (torch.arange(height) >= top) & (torch.arange(height) < top + height // 2)
    inside_columns = (torch.arange(width) >= left) & (torch.arange(width) < left + width // 2)
    return x.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], 0.0)


DESIGNS = {
    "convolutions": Design(
        convolutions,
        _turned,
        lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4),
        lr=0.09,
        seed=20_240,
    ),
    "patches": Design(
        patches,
        _disturbed,
        lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr, weight_decay=0.05),
        lr=0.004,
        seed=7,
    ),
}
JUDGES = tuple(DESIGNS)


@torch.inference_mode()
def _outputs(network: Network, images: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
    """float64 features [n,96] and logits."""
    outputs = []
    for start in range(0, len(images), BATCH):
        batch = torch.from_numpy(np.array(images[start : start + BATCH]))
        outputs.append(network(to_model_range(batch)))
    features, logits = (torch.cat(parts).double() for parts in zip(*outputs, strict=True))
    return features, logits
