"""The picture of nearest neighbours is drawn for few or many images, grey or in colour."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm.measuring.memorization import find_copies_in_every_way
from ddpm.measuring.neighbours_picture import draw_neighbours


@pytest.mark.parametrize(("channels", "n"), [(1, 30), (3, 4)])
def test_a_picture_shows_copies_in_red_among_generated_and_held_out_images(
    channels: int, n: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    # Grey in every channel, so that nothing but the captions of copies is red.
    train, held_out, fresh = (
        rng.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8).repeat(channels, axis=1) for _ in range(3)
    )
    far = fresh // 128 * 255  # black and white only, so further away than the limit

    def red_pixels(generated: np.ndarray, held_out: np.ndarray) -> int:
        images = generated, held_out, train
        made, real = (part.reshape(len(part), -1).astype(np.float32) for part in images[:2])
        found = find_copies_in_every_way(
            images,
            (made, real),
            lambda start, piece: piece.reshape(len(piece), -1).astype(np.float32),
            quantile=0.01,
            device=torch.device("cpu"),
            progress=False,
        )
        path = tmp_path / "reports" / "neighbours.png"
        draw_neighbours(path, generated=generated, held_out=held_out, train=train, copies=found)
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        return int((pixels[:, :, 0] - pixels[:, :, 1:].max(axis=2) > 200).sum())

    # The held-out image that is nearest to a training image in some way is not among the first ones.
    ordered = np.concatenate([far[:20], held_out])
    assert red_pixels(far[:n], ordered) == 0
    assert red_pixels(train[:n], ordered) > 100
    assert red_pixels(far[:n], np.concatenate([train[:1], ordered])) > 10
