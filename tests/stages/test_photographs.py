"""A folder of photographs: they get a size that this machine can train, a recipe is named, and a champion comes out."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from ddpm.data.reading.dataset import read_facts
from ddpm.files import write_json
from ddpm.params import load as load_params
from ddpm.planning import size_choice

ROOT = Path(__file__).parents[2]
TINY = {
    "validate": {"min_train_images": 20, "min_test_images": 10},
    "features": {"images": 256, "dim": 16},
    "network": {"width": 8, "head_channels": 8, "blocks": 1},
    "train": {"images": 256, "warmup_images": 0, "decay_images": 0},
    "sample": {"steps": 3, "images": 40, "grid": 16},
    "evaluate": {"kid_subsets": 2, "kid_subset_size": 10},
    "promote": {"rules": [{"figure": "fid", "better_by": 0.02}]},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder is a project with 60 photographs of 300x200: smooth fields of colour."""
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, name)
    for name in ("recipes", "src/ddpm"):
        shutil.copytree(ROOT / name, name, ignore=shutil.ignore_patterns("__pycache__"))
    Path("data/raw").mkdir(parents=True)
    Path("data/guides").mkdir()
    for k, corners in enumerate(np.random.default_rng(0).integers(0, 256, (60, 4, 6, 3), np.uint8)):
        Image.fromarray(corners).resize((300, 200), Image.Resampling.BICUBIC).save(f"data/raw/{k:03d}.jpg")
    change(data={"source": "folder"})
    return tmp_path


def change(**sections: dict[str, Any]) -> None:
    yaml = YAML()
    params = yaml.load(Path("params.yaml"))
    for section, values in sections.items():
        params[section].update(values)
    yaml.dump(params, Path("params.yaml"))


def run(*command: str) -> str:
    """Run a command of the project; return its output."""
    clean = {name: value for name, value in os.environ.items() if name not in ("DVC_ROOT", "MLFLOW_TRACKING_URI")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, env=clean | {"PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def prepare() -> str:
    return run(sys.executable, *"-m ddpm.stages.prepare --prepared data/prepared --state .state/prepare".split())


def test_photographs_get_the_size_that_was_measured_before_and_a_recipe_is_named(folder: Path) -> None:
    params = load_params()
    causes = size_choice.causes(params)
    write_json(
        Path(".state/prepare/chosen_size.json"),
        {"for": {"own_size": 200, "channels": 3} | causes, "size": 64, "reason": "200x200 would take 68 hours"},
    )
    said = prepare()
    assert "200x200 would take 68 hours (measured before; delete .state/prepare/chosen_size.json to " in said
    assert "kept 60 (48 train, 12 test); 64x64, 3 channel(s)" in said
    assert "recipes/few.yaml fits these images (60 colour images of 64x64): `ddpm configure recipes/few.yaml`" in said
    facts = read_facts(Path("data/prepared"))
    assert (facts.size, facts.own_size) == (64, 200)

    first = Path("data/prepared/dataset.json").read_text()
    Image.new("RGB", (300, 200), "red").save("data/raw/more.jpg")
    assert "61 colour images of 64x64" in prepare()
    change(data={"size": 48})
    assert "48x48, 3 channel(s)" in prepare()
    assert "own_size" in first
    assert "own_size" not in Path("data/prepared/dataset.json").read_text()


@pytest.mark.slow
def test_from_a_folder_of_photographs_to_a_champion(folder: Path, empty_store: Callable[..., Any]) -> None:
    """The commands of the README, with tiny values in between."""
    shutil.copy(str(empty_store), "mlflow.db")
    change(train={"max_hours": 0.05}, network=TINY["network"], runtime={"device": "cpu"})
    run("dvc", "init", "--no-scm", "--quiet")
    said = run("dvc", "repro", "prepare")
    assert "the images are 200x200 by themselves" in said
    size = read_facts(Path("data/prepared")).size
    assert 32 <= size < 200
    assert f"they become {size}x{size}" in said
    assert json.loads(Path(".state/prepare/chosen_size.json").read_text())["size"] == size
    assert "Stage 'prepare' didn't change, skipping" in run("dvc", "repro", "prepare")

    assert "recipes/few.yaml: At most 1,000" in run("ddpm", "configure", "recipes/few.yaml")
    change(**TINY, data={"size": 32, "test_fraction": 0.4})
    run("dvc", "repro")
    assert "it is the champion" in run("ddpm", "report")
    run("ddpm", "sample", "--number", "4", "--steps", "3", "--out", "mine.png")
    with Image.open("mine.png") as drawn:
        assert drawn.size[0] >= 2 * 32
