"""A project with the real stages whose ten stages take seconds each: 420 pictures of 8x8 pixels, a short training."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ruamel.yaml import YAML
from small_project import ROOT

SMALL: dict[str, dict[str, Any]] = {
    "data": {"source": "folder", "test_fraction": 0.3},
    "features": {"images": 500},
    "network": {"width": 16, "head_channels": 16, "blocks": 1},
    "train": {"images": 8000, "batch_size": 64, "warmup_images": 200, "decay_images": 500},
    "sample": {"steps": 3, "images": 150, "grid": 16},
    "evaluate": {"kid_subset_size": 50, "kid_subsets": 5, "during": 0},
    "promote": {"rules": [{"figure": "fid", "at_most": 1000000.0}]},
    "canary": {"max_distance": 1000.0, "max_seconds": 600},
    "runtime": {"checkpoint_seconds": 1, "progress": False},
}
"""The rule accepts every model, so that every retraining moves the champion's alias."""


def fill(path: Path) -> None:
    """Turn the folder of `small_project.new_project` into this project."""
    shutil.copytree(ROOT / "src", path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.rmtree(path / "data")
    for name in ("raw", "guides", "starts"):
        (path / "data" / name).mkdir(parents=True)
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, path / name)
    make_small(path)


def make_small(path: Path) -> None:
    """Give a project that has the real stages these pictures and values."""
    draw_pictures(path / "data" / "raw", 420)
    params = YAML().load(path / "params.yaml")
    for section, values in SMALL.items():
        params[section].update(values)
    YAML().dump(params, path / "params.yaml")


def draw_pictures(folder: Path, n: int, *, seed: int = 0) -> None:
    """Pictures of 8x8 pixels in two class folders: a bright upper half or a bright left half, with noise."""
    rng = np.random.default_rng(seed)
    for k in range(n):
        bright = np.zeros((8, 8))
        if k % 2:
            bright[:4] = 150
        else:
            bright[:, :4] = 150
        pixels = (bright + rng.uniform(0, 100, (8, 8))).astype(np.uint8)
        path = folder / ("upper" if k % 2 else "left") / f"{seed}-{k:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def train_anew(path: Path) -> None:
    """Make `train` and what follows it have something to do: a new model."""
    params = YAML().load(path / "params.yaml")
    params["train"]["seed"] += 1
    YAML().dump(params, path / "params.yaml")
