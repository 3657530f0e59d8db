"""FID of a contender by the judge: of its better weights, and of the settings of its samplers."""

from dataclasses import dataclass
from pathlib import Path

import torch
from judge import Judge
from torch import Tensor

from contenders import EMA, RAW, Contender, Draw, Setting

AS_GOOD = 1.05
"""An FID of so many times another is as good: two draws of some thousand images differ by about as much."""


@dataclass(frozen=True)
class Measured:
    """FID of a contender: of every kind of its weights by the first images, of the kept one by all."""

    first: dict[str, float]
    weights: str
    fid: float
    images: dict[str, Tensor]
    """The first images by each kind of weights: uint8 [first,C,H,W]."""
    all: Tensor
    """All images by the kept weights: uint8 [n,C,H,W]."""


def better_weights(
    contender: Contender, folder: Path, weights: list[str], judge: Judge, *, first: int
) -> tuple[str, dict[str, float], dict[str, Tensor]]:
    """The weights it hands out or, where it leaves that open, the better by `first` images; their FIDs; the images."""
    drawn = {name: contender.drawer(folder, name)(first, 0, contender.default) for name in weights}
    fids = {name: judge.fid(images) for name, images in drawn.items()}
    best = contender.weights if contender.weights in fids else min(fids, key=lambda name: fids[name])
    return best, fids, drawn


def measure(contender: Contender, folder: Path, weights: list[str], judge: Judge, *, n: int, first: int) -> Measured:
    """FID of `n` images by the better weights, its default sampler and the same first images."""
    best, fids, drawn = better_weights(contender, folder, weights, judge, first=first)
    images = drawn[best]
    if n > first:
        images = torch.cat([images, contender.drawer(folder, best)(n - first, 1, contender.default)])
    return Measured(fids, best, judge.fid(images), drawn, images)


def final(weights: list[str]) -> list[str]:
    """Of the weights a training left, those of its end."""
    return [name for name in weights if name in (RAW, EMA)]


@dataclass(frozen=True)
class Tried:
    """Settings of one sampler with their FID, in the order they were tried, and the one that was chosen."""

    fids: dict[Setting, float]
    chosen: Setting

    @property
    def fid(self) -> float:
        return self.fids[self.chosen]


def cheapest(draw: Draw, ladder: tuple[Setting, ...], judge: Judge, *, n: int, target: float) -> Tried:
    """The first setting of the ladder whose FID, by `n` images, is at most `target`; the others are left out then.

    Where none reaches it: the first that is as good as the ladder's best.
    """
    fids: dict[Setting, float] = {}
    for setting in ladder:
        fids[setting] = judge.fid(draw(n, 0, setting))
        if fids[setting] <= target:
            return Tried(fids, setting)
    good_enough = AS_GOOD * min(fids.values())
    return Tried(fids, next(setting for setting, fid in fids.items() if fid <= good_enough))
