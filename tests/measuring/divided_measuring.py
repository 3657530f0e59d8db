"""A measurement in one process or several: metrics, copies and the floor of images in shards."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm.compute.processes import joined, leads
from ddpm.data.reading.shard_index import read_index
from ddpm.data.reading.sharded_images import ShardedImages
from ddpm.files import write_json
from ddpm.measuring import fidelity, memorization
from ddpm.measuring.features.description import Description
from ddpm.measuring.settings import Evaluate
from ddpm.params import load as load_params

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")


class Projection:
    """An extractor of random linear features and two logits, which is quick."""

    description = Description(name="projection", layer="linear", resizing="none", dtype="float32", sha256="p" * 64)
    names_classes = True

    def __init__(self, *, pixels: int, dim: int) -> None:
        self.dim = dim
        self._matrix = torch.randn(pixels, dim + 2, generator=torch.Generator().manual_seed(0)) / pixels

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = images.flatten(1).float() @ self._matrix
        return found[:, : self.dim], found[:, self.dim :]

    def packed(self) -> bytes:
        raise NotImplementedError


def compare(
    folder: Path, generated: np.ndarray, held_out: np.ndarray, *, dim: int, most: int, together: bool = False
) -> fidelity.Compared:
    """Compare with the training images in `folder`, which are in shards, and with at most `most` held-out images."""
    train = ShardedImages(folder, read_index(folder), image_shape=generated.shape[1:])
    return fidelity.compare_sets(
        generated,
        train,
        held_out,
        extractor=Projection(pixels=generated[0].size, dim=dim),
        settings=settings(most),
        seed=5,
        device=torch.device("cpu"),
        progress=False,
        together=together,
    )


def settings(most: int) -> Evaluate:
    return dataclasses.replace(PARAMS.evaluate, kid_subset_size=20, kid_subsets=3, held_out_images=most)


def found(folder: str, file: str, *, together: bool) -> None:
    """Write the metrics and the indices of the nearest training images, in pieces of 128; called in every process."""
    memorization.CHUNK_ROWS = 64
    images = np.load(Path(folder) / "images.npz")
    generated, held_out = images["generated"], images["held_out"]
    compared = compare(Path(folder), generated, held_out, dim=4, most=150, together=together)
    if leads():
        ways = vars(compared.copies)
        extractor = Projection(pixels=generated[0].size, dim=4)
        record = fidelity.record_of(compared, extractor=extractor, settings=settings(150), drawing={}, seed=5)
        write_json(Path(file), record.to_json())
        np.savez(
            Path(file).with_suffix(".npz"),
            floor=compared.real.features.numpy(),
            **{f"{way} {name}": value for way in ways for name, value in vars(ways[way].nearest).items()},
        )


def found_together(folder: str, file: str) -> None:
    with joined(PARAMS.runtime):
        found(folder, file, together=True)
