"""Latents of the training images, float16 shards that are written once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpm.compute.hardware import Precision
from ddpm.data.reading.dataset import FACTS_OF_LATENTS
from ddpm.data.reading.shard_index import LATENTS, Index, write_index, write_shard
from ddpm.files import write_json
from ddpm.images import Images, to_model_range
from ddpm.model_file import Model


def write_latents(
    folder: Path,
    model: Model,
    images: Images,
    index: Index,
    *,
    precision: Precision,
    batch: int,
    progress: bool = False,
) -> None:
    """Encode images, uint8 [N,C,H,W], by the autoencoder `model`, and write their latents into the new `folder`.

    `index` is that of the images: the latents have as many shards, in the same store. `batch` images are encoded at a
    time. Raises UserError as `write_shard` does.
    """
    from tqdm import tqdm

    split = folder / "train"
    split.mkdir(parents=True)
    channels, height, width = shape = model.spec.noise_shape
    shards, start = [], 0
    with tqdm(total=len(images), desc="encoding", unit="image", disable=not progress) as bar:

        def latents(rows: range) -> Iterator[np.ndarray]:
            for first in rows[::batch]:
                last = min(first + batch, rows.stop)
                yield encoded(model, images[first:last], precision=precision)
                bar.update(last - first)

        for number, shard in enumerate(index.shards):
            rows = range(start, start + shard.images)
            options: dict[str, Any] = {"n": len(rows), "store": index.store, "dtype": LATENTS}
            shards.append(write_shard(split, number, latents(rows), shape=(channels, height, width), **options))
            start = rows.stop
    write_index(split, Index(index.store, tuple(shards)))
    facts = {"codec": "autoencoder", "autoencoder_sha256": model.sha256, "shape": list(shape)}
    write_json(folder / FACTS_OF_LATENTS, facts)


@torch.inference_mode()
def encoded(model: Model, images: np.ndarray, *, precision: Precision) -> np.ndarray:
    """Return the standardised latents of images, uint8 [n,C,H,W]: float16 [n,L,h,w].

    They have a mean of about 0 and a standard deviation of about 1, so float16 rounds them by about 0.0005.
    """
    device = next(model.network.parameters()).device
    x = to_model_range(torch.from_numpy(np.array(images)).to(device))
    return model.encoded(x, precision=precision).cpu().to(torch.float16).numpy()
