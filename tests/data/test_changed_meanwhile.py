"""Data that change while they are prepared are refused, and the next run reads what is there then."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.data.preparing.prepare import prepare
from ddpm.data.preparing.tree import require_unchanged, trace
from ddpm.errors import UserError
from ddpm.params import load as load_params

ROOT = Path(__file__).parents[2]


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(path)


def add(raw: Path) -> None:
    draw(raw / "new.png", 99)


def change(raw: Path) -> None:
    draw(raw / "0.png", 99)


def remove(raw: Path) -> None:
    (raw / "0.png").unlink()


def replace(raw: Path) -> None:
    """By another file of the same name, size and time."""
    old = (raw / "0.png").stat()
    draw(raw / "aside.png", 0)
    (raw / "aside.png").replace(raw / "0.png")
    os.utime(raw / "0.png", ns=(old.st_atime_ns, old.st_mtime_ns))


@pytest.mark.parametrize("alter", [add, change, remove, replace], ids=lambda alter: alter.__name__)
def test_a_folder_that_changes_while_it_is_read_is_refused_and_leaves_nothing(
    tmp_path: Path, alter: Callable[[Path], None]
) -> None:
    raw, prepared = tmp_path / "raw", tmp_path / "prepared"
    raw.mkdir()
    for k in range(20):
        draw(raw / f"{k}.png", k)
    settings = dataclasses.replace(load_params(ROOT / "params.yaml").data, source="folder", size=None)

    altered = []

    def meanwhile(size: int, channels: int) -> int:
        if not altered:
            altered.append(alter(raw))
        return size

    once = {"raw": raw, "prepared": prepared, "workers": 1, "progress": False}
    with pytest.raises(UserError, match=r"changed while it was read .*start again when nothing writes there"):
        prepare(settings, **once, choose_size=meanwhile)
    assert not prepared.exists()
    assert prepare(settings, **once).kept >= 19


def test_an_archive_and_an_unchanged_folder_have_a_trace_too(tmp_path: Path) -> None:
    archive = tmp_path / "pictures.zip"
    archive.write_bytes(b"one")
    before = trace(archive)
    require_unchanged(archive, before)
    archive.write_bytes(b"two")
    with pytest.raises(UserError, match=r"pictures\.zip changed while it was read"):
        require_unchanged(archive, before)
