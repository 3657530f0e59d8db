"""The judge of `time_to_fid` and `sampling`: a classifier of real images that no contender was tuned on.

Another architecture, other augmentation and another seed than the extractor of the pipeline's own figures: plain
convolutions with batch normalisation instead of residual blocks with group normalisation, rotated and enlarged
training images instead of shifted ones.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from common import Images
from torch import Tensor, nn

from ddpm.errors import UserError
from ddpm.images import to_model_range
from ddpm.measuring.features.extractor import Described
from ddpm.measuring.fidelity import frechet_distance

WIDTHS = (16, 32, 48)
DIM = sum(WIDTHS)
BATCH = 128
SEED = 20_240
SCALED_BY = 10_000
"""Training images, the first ones, whose features define mean 0 and standard deviation 1."""


class Network(nn.Module):
    """x [N,C,H,W] in [-1,1] -> features [N,96], logits [N,classes].

    The layer before the last holds the image means of all three stages: what is in an image, and how it is drawn;
    the last stage alone would hardly see noise or blur.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        c_in, stages = channels, []
        for level, c_out in enumerate(WIDTHS):
            stride = 1 if level == 0 else 2
            stages.append(
                nn.Sequential(
                    nn.Conv2d(c_in, c_out, 3, padding=1, stride=stride, bias=False),
                    nn.BatchNorm2d(c_out),
                    nn.GELU(),
                    nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
                    nn.BatchNorm2d(c_out),
                    nn.GELU(),
                )
            )
            c_in = c_out
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(DIM, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        means = []
        for stage in self.stages:
            x = stage(x)
            means.append(x.mean(dim=(2, 3)))
        features = torch.cat(means, dim=1)
        return features, self.head(features)


@dataclass(frozen=True)
class Judge:
    """FID against held-out real images."""

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


def train_judge(images: Images, *, seen: int = 120_000, lr: float = 0.003) -> Judge:
    """A judge that has learned from `seen` training images; the same on the same machine every time.

    Raises UserError for images without labels.
    """
    if images.train_labels is None or images.test_labels is None:
        raise UserError(f"{images.name} has no labels, from which the judge learns; give labelled images")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = Network(images.train.shape[1], int(images.train_labels.max()) + 1)
        labels = torch.from_numpy(np.array(images.train_labels))
        steps = max(2, seen // BATCH)
        optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 30 * lr, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(len(labels), (BATCH,))
            x = _turned(to_model_range(torch.from_numpy(images.train[rows.numpy()])))
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
    return Judge(network, mean, std, reference, float(right.double().mean()), steps * BATCH)


def _turned(x: Tensor) -> Tensor:
    """Each image turned by up to 15 degrees either way and enlarged or shrunk by up to a tenth."""
    angle = math.radians(15) * (2 * torch.rand(len(x)) - 1)
    scale = 0.9 + 0.2 * torch.rand(len(x))
    cos, sin, zero = angle.cos() * scale, angle.sin() * scale, torch.zeros(len(x))
    affine = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


@torch.inference_mode()
def _outputs(network: Network, images: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
    """float64 features [n,96] and logits."""
    outputs = []
    for start in range(0, len(images), BATCH):
        batch = torch.from_numpy(np.array(images[start : start + BATCH]))
        outputs.append(network(to_model_range(batch)))
    features, logits = (torch.cat(parts).double() for parts in zip(*outputs, strict=True))
    return features, logits
