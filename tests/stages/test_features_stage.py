"""Stage `features` makes one or two extractors, and what the training waits for does not depend on them."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from published_weights import random_dinov2
from ruamel.yaml import YAML

from ddpm.errors import UserError
from ddpm.measuring.features import pretrained
from ddpm.measuring.features.extractor_file import load_extractor, load_second
from ddpm.stages import features, prepare
from ddpm.stages.stage import Stage

ROOT = Path(__file__).parents[2]
OUTPUTS = {"extractor": "models/extractor.safetensors", "second": "models/second_extractor.safetensors"}
OUTPUTS |= {"report": "reports/extractor.json", "made": "models/extractor_made.json"}


def run_main(main: Callable[[Stage], None], **paths: str) -> None:
    main(Stage(argparse.Namespace(**{name: Path(path) for name, path in paths.items()})))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    shutil.copy(ROOT / "params.yaml", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("data/raw").mkdir(parents=True)
        run_main(prepare.main, prepared="data/prepared", state=".state/prepare")
    return folder


@pytest.fixture(autouse=True)
def project(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def make(**settings: object) -> dict[str, bytes]:
    """Run the stage with these settings of `features`; return the contents of its outputs."""
    yaml = YAML(typ="safe")
    params = yaml.load(Path("params.yaml"))
    params["features"] |= {"dim": 16, "images": 1000, **settings}
    params["runtime"] |= {"device": "cpu", "progress": False}
    yaml.dump(params, Path("params.yaml"))
    run_main(features.main, prepared="data/prepared", **OUTPUTS)
    return {name: Path(path).read_bytes() for name, path in OUTPUTS.items()}


def test_a_second_extractor_is_made_beside_the_same_first_one() -> None:
    alone = make(second=None)
    assert load_second(Path(OUTPUTS["second"])) is None
    both = make(second="rotation")
    assert both["extractor"] == alone["extractor"]
    assert both["made"] == alone["made"]  # which is all that the training waits for
    second = load_second(Path(OUTPUTS["second"]))
    assert second is not None
    assert second.description.name == "rotation-16"
    report = json.loads(both["report"])
    assert {key: value for key, value in report.items() if key != "second"} == json.loads(alone["report"])
    assert report["second"]["kind"] == "rotation"
    assert 0.25 < report["second"]["accuracy"] <= 1


def test_published_weights_are_verified_before_anything_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    Path("weights.pth").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"weights\.pth is incomplete, or cannot be read without executing code"):
        make(second="dinov2", dinov2_weights="weights.pth", lr=1e30)  # a training would diverge


def test_a_published_second_extractor_may_have_more_features_than_there_are_images(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(pretrained.DINOV2, (384, 1), "dinov2-vit-s-14")
    random_dinov2(Path("weights.pth"), width=384, depth=1)
    make(second="dinov2", dinov2_weights="weights.pth")
    assert "there will be kid_second, but no fid_second: there are 359 held-out images" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"held-out images, but FID with 384 features needs more than 384"):
        make(extractor="dinov2", second="classifier")
    assert load_extractor(Path(OUTPUTS["extractor"])).description.name == "classifier-16"
