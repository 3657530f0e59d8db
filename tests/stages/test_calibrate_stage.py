"""Stage `calibrate` writes which metrics notice damaged images, and names those that do not."""

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from ddpm.data.preparing.prepare import prepare
from ddpm.measuring.features.classifier import Classifier
from ddpm.measuring.features.extractor import Extractor
from ddpm.params import load as load_params
from ddpm.pipeline.dvc_yaml import options_of_stage
from ddpm.stages import calibrate
from ddpm.stages.stage import Stage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def prepared(project: Path) -> argparse.Namespace:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, project)
    paths = options_of_stage("calibrate")
    assert paths is not None
    prepare(load_params().data, raw=project, prepared=paths.prepared, workers=1, progress=False)
    return paths


def test_a_broken_extractor_makes_its_metrics_unfit_and_the_stage_says_so(
    prepared: argparse.Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    network = Classifier(channels=1, size=8, classes=10, dim=16)
    for parameter in network.parameters():  # its features are the same for every image
        torch.nn.init.zeros_(parameter)
    prepared.extractor.parent.mkdir(exist_ok=True)
    prepared.extractor.write_bytes(Extractor(network.eval(), "classifier", accuracy=0.1).packed())
    calibrate.main(Stage(prepared))
    report = json.loads(prepared.reactions.read_text())
    assert {"fid", "kid", "precision", "inception_score"} <= set(report["unfit"])
    assert not {"memorized_share", "memorized_share_half"} & set(report["unfit"])
    assert [each["figure"] for each in report["reasons"]] == report["unfit"]
    assert report["unfit_metrics"] == len(report["unfit"])
    assert report["protocol"]["reference_n"] == 359
    assert "warning: FID does not react as it must. blur: it does not rise" in capsys.readouterr().out
    with Image.open(prepared.picture) as picture:
        assert picture.format == "PNG"
