"""The benchmark of few pictures: its parts have no picture in common, and it sees that copies are copies."""

import importlib
import io
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def few() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("few")
        for name in [n for n in sys.modules if n.split(".")[0] in {"contenders", "common", "judge", "few"}]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 kinds of 35 tiles of noise, and a smaller kind. The first pixel of each tile is transparent."""
    path, random = tmp_path_factory.mktemp("tiles") / "tiles.zip", np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as file:
        for split, numbers in (("train", range(28)), ("test", range(28, 35))):
            rows = []
            for kind in range(21):
                for k in list(numbers)[: 6 if kind == 20 else None]:
                    pixels = random.integers(1, 256, (8, 8, 4), np.uint8)
                    pixels[..., 3] = 255
                    pixels[0, 0, 3] = 0
                    name, buffer = f"{kind:02d}-{k:02d}.png", io.BytesIO()
                    Image.fromarray(pixels).save(buffer, "png")
                    file.writestr(f"{split}/{name}", buffer.getvalue())
                    rows.append(json.dumps({"file_name": name, "text": f"kind {kind:02d} number {k}"}))
            file.writestr(f"{split}/metadata.jsonl", "\n".join(rows))
    return path


def test_its_parts_are_of_the_twenty_largest_kinds_and_have_no_picture_in_common(few: Any, archive: Path) -> None:
    pictures, others = few.tiles(archive)
    parts = (pictures.train, pictures.test, others.train, others.test)
    labels = (pictures.train_labels, pictures.test_labels, others.train_labels, others.test_labels)
    for pixels, of, each in zip(parts, labels, (20, 5, 5, 5), strict=True):
        assert np.bincount(of).tolist() == 20 * [each]
        assert (pixels[:, :, 0, 0] == 0).all()
        assert (pixels[:, :, 1:] > 0).all()
    every = np.concatenate(parts)
    assert len(np.unique(every.reshape(len(every), -1), axis=0)) == len(every) == 20 * 35


def test_training_pictures_themselves_are_above_the_gate_s_limit_of_copies(few: Any, archive: Path) -> None:
    pictures, others = few.tiles(archive)
    judge = few.train_judge(others, "convolutions", seen=256)
    real = few.copies(torch.from_numpy(others.test), pictures, judge, quantile=0.01)
    rules = {"real": real, "limit": 0.05, "quantile": 0.01}
    row = few.row("copies", torch.from_numpy(pictures.train), pictures, [judge], **rules)
    assert row["gate's limit"] == "above"
    assert row["most copies"].startswith("100.0%")
    assert row["FID / floor, convolutions"].endswith("(1.00)")
    assert 0 <= float(row["of other real tiles"].rstrip("%")) < 20
    noise = np.random.default_rng(1).integers(0, 256, pictures.train.shape, np.uint8)
    assert few.row("noise", torch.from_numpy(noise), pictures, [judge], **rules)["gate's limit"] == "within"
