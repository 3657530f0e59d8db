"""A VAE, then a GAN, go through every stage of dvc.yaml on the real digits: measured, judged, registered, reported."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from run_stages import names_of_stages, run

from ddpm import cli
from ddpm.tracking.mlflow_registry import MlflowRegistry

ROOT = Path(__file__).parents[2]
SMALL: dict[str, dict[str, Any]] = {
    "features": {"dim": 16, "images": 2000},
    "vae": {"width": 8, "blocks": 1, "latent_channels": 4},
    "gan": {"width": 8, "latent": 8},
    "train": {"images": 640, "batch_size": 32, "warmup_images": 64, "decay_images": 320},
    "sample": {"images": 120, "grid": 9},
    "evaluate": {"kid_subset_size": 20, "kid_subsets": 5, "held_out_images": 120, "bits_per_dim": 8},
    "promote": {"rules": [{"figure": "fid", "better_by": 0.02}], "max_images": 120},
    "runtime": {"progress": False, "device": "cpu", "precision": "float32"},
}


def set_params(**changes: Any) -> None:
    yaml = YAML(typ="safe")
    params = yaml.load((ROOT / "params.yaml").read_text())
    for section, values in SMALL.items():
        params[section] |= values
    for key, value in changes.items():
        params[key] = params[key] | value if isinstance(value, dict) else value
    yaml.dump(params, Path("params.yaml"))


@pytest.mark.slow
def test_both_are_measured_judged_registered_and_reported(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    for folder in ("data/raw", "data/starts", "data/guides", "reports", "models"):
        (tmp_path / folder).mkdir(parents=True)

    set_params(method="vae")
    run(*names_of_stages())
    assert json.loads(Path("reports/bits_per_dim.json").read_text())["bound"] > 0
    set_params(method="gan", evaluate={"bits_per_dim": 0})
    run(*names_of_stages()[names_of_stages().index("train") :])

    metrics = json.loads(Path("reports/metrics.json").read_text())
    assert metrics["interval"]["fid"]["low"] < metrics["fid"] < metrics["interval"]["fid"]["high"]
    assert metrics["protocol"]["drawing"]["steps"] == 1
    first, second = sorted(MlflowRegistry("ddpm").versions(), key=lambda version: int(version.number))
    assert first.tags["decision"] == "promoted"
    assert second.tags["decision"] in ("promoted", "rejected")
    assert "FID" in Path("reports/report.html").read_text()

    capsys.readouterr()
    for command in ("report", "versions", "compare 1 2", "gate 2 1", "sample -n 3 --version 2 --out three.png"):
        assert cli.main(command.split()) in ((0, 1) if command.startswith("gate") else (0,)), capsys.readouterr().err
    assert Path("three.png").stat().st_size > 100
