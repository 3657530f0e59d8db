"""The picture of nearest neighbours is drawn for few or many images, grey or in colour."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm.measuring.memorization import find_copies_in_every_way
from ddpm.measuring.neighbours_picture import draw_neighbours


@pytest.mark.parametrize(("channels", "n"), [(1, 30), (3, 4)])
def test_a_picture_shows_copies_in_red(channels: int, n: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Grey in every channel, so that nothing but the captions of copies is red.
    train, held_out, fresh = (
        rng.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8).repeat(channels, axis=1) for _ in range(3)
    )

    def red_pixels(generated: np.ndarray) -> int:
        images = generated, held_out, train
        made, real = (part.reshape(len(part), -1).astype(np.float32) for part in images[:2])
        found = find_copies_in_every_way(
            images,
            (made, real),
            lambda start, piece: piece.reshape(len(piece), -1).astype(np.float32),
            quantile=0.0,
            device=torch.device("cpu"),
            progress=False,
        )
        path = tmp_path / "reports" / "neighbours.png"
        draw_neighbours(path, generated=generated, train=train, copies=found)
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        return int((pixels[:, :, 0] - pixels[:, :, 1:].max(axis=2) > 200).sum())

    assert red_pixels(train[:n]) > 100
    assert red_pixels(fresh[:n] // 128 * 255) == 0  # black and white only, so further away than the limit
