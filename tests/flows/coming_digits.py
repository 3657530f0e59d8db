"""A project whose data are digits, with further digits that come in later."""

import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from ddpm import overlay
from ddpm.data.preparing.prepare import prepare
from ddpm.data.reading.dataset import read_split
from ddpm.measuring.features import extractor_file
from ddpm.measuring.features.extractor_training import train_extractor
from ddpm.params import load as load_params


def write(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    for k, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / str(label) / f"{folder.name}-{k:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def furnish(folder: Path) -> None:
    """Real digits as data and as pictures that come later, and an extractor that was trained on the data."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    images, labels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[order], digits.target[order]
    shutil.rmtree(folder / "data/raw")
    write(folder / "data/raw", images[:900], labels[:900])
    for name, start, stop in (("more", 900, 930), ("event", 930, 960), ("few", 960, 1020), ("same", 1020, 1200)):
        write(folder / "later" / name, images[start:stop], labels[start:stop])
    write(folder / "later/inverted", 255 - images[1200:1400], labels[1200:1400])
    (folder / "incoming").mkdir()
    values = {"data": {"source": "folder", "test_fraction": 0.3}, "retrain": {"incoming": "incoming"}}
    overlay.write_values(folder / "params.yaml", values, "a test")
    params = load_params(folder / "params.yaml")
    scratch = folder / "scratch"
    prepare(params.data, raw=folder / "data/raw", prepared=scratch, workers=1, progress=False)
    train, test = (read_split(scratch, name) for name in ("train", "test"))
    device = torch.device("cpu")
    extractor = train_extractor(
        train, test, kind="classifier", classes=10, settings=params.features, device=device, progress=False
    )
    extractor_file.save(extractor, folder / "models/extractor.safetensors")
