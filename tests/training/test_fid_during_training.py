"""FID during a training leaves the trained model as it is, bit for bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import IMAGES, NOWHERE, PARAMS, SETTINGS, begin

from ddpm.measuring.during_training import few_images
from ddpm.measuring.features.classifier import Classifier
from ddpm.measuring.features.extractor import Extractor
from ddpm.measuring.features.extractor_file import save
from ddpm.model_file import Model
from ddpm.tracker import JsonLinesTracker
from ddpm.training.run import run_training

SHORT = SETTINGS.__class__(**{**vars(SETTINGS), "images": 16 * 20, "decay_images": 160})


def made_extractor(path: Path) -> Path:
    torch.manual_seed(0)
    network = Classifier(channels=1, size=8, classes=3, dim=8).eval()
    save(Extractor(network, "classifier", 0.5), path)
    return path


def trained(folder: Path, n: int) -> dict[str, torch.Tensor]:
    """Train in memory, measuring n images at every 160; return the averaged weights."""
    training = begin(NOWHERE, settings=SHORT, resume="never", checkpoint_seconds=1e9)
    training.save = lambda **_: None  # type: ignore[method-assign]
    few = few_images(
        n,
        PARAMS.sample,
        IMAGES,
        extractor=made_extractor(folder / "extractor.safetensors"),
        device=training.device,
        precision="float32",
        batch=16,
    )
    assert (few is None) == (n == 0)

    def measure() -> dict[str, float]:
        if few is None:
            return {}
        images, _ = few.draw(Model(training.average(), training.spec, lineage={}, sha256=""))
        return {"training/fid": few.fid(images)}

    run_training(
        training,
        tracker=JsonLinesTracker(folder / "run.jsonl"),
        log_every_images=160,
        grid_every_images=160,
        picture=lambda: Image.new("L", (8, 8)),
        measure=measure,
    )
    return training.average().state_dict()


def test_the_model_is_the_same_with_and_without_it(tmp_path: Path) -> None:
    without, measured = trained(tmp_path, 0), trained(tmp_path, 20)
    assert all(torch.equal(without[name], measured[name]) for name in without)
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    assert sum('"training/fid"' in line for line in lines) == 2


@pytest.mark.parametrize(
    ("n", "held_out", "sentence"),
    [
        (8, 37, "evaluate.during is 8 and there are 37 held-out images, but FID with 8 features needs more than 8"),
        (20, 5, "evaluate.during is 20 and there are 5 held-out images"),
    ],
)
def test_too_few_images_are_a_sentence_and_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], n: int, held_out: int, sentence: str
) -> None:
    extractor = made_extractor(tmp_path / "extractor.safetensors")
    options = {"device": torch.device("cpu"), "precision": "float32", "batch": 16}
    images = np.zeros((held_out, 1, 8, 8), np.uint8)
    assert few_images(n, PARAMS.sample, images, extractor=extractor, **options) is None  # type: ignore[arg-type]
    assert sentence in capsys.readouterr().out
    assert few_images(n, PARAMS.sample, images, extractor=tmp_path / "no", **options) is None  # type: ignore[arg-type]
    assert "create one with `dvc repro features`" in capsys.readouterr().out
