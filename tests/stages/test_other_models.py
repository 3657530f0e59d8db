"""DVC sees a guide, and a model that a training starts from, by its content and not by its name."""

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("option", "readers", "users"),
    [
        ("guides", {"sample", "register"}, ["sample", "register"]),
        ("starts", {"configure", "autoencoder", "train"}, ["autoencoder", "train"]),
    ],
)
def test_a_file_with_other_content_changes_the_stages_that_use_it_and_no_other(
    option: str, readers: set[str], users: list[str], tmp_path: Path
) -> None:
    yaml = YAML(typ="safe")
    stages = yaml.load(ROOT / "dvc.yaml")["stages"]
    words = {name: stage["cmd"].split() for name, stage in stages.items() if f"--{option}" in stage["cmd"]}
    folder = f"data/{option}"
    assert {name: each[each.index(f"--{option}") + 1] for name, each in words.items()} == dict.fromkeys(readers, folder)
    assert [name for name, stage in stages.items() if folder in stage["deps"]] == users

    dvc = [sys.executable, "-m", "dvc"]
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "other.safetensors").write_bytes(b"one")
    small = {name: {"cmd": f"touch {name}", "outs": [name]} for name in ("user", "another")}
    small["user"]["deps"] = [folder]
    yaml.dump({"stages": small}, tmp_path / "dvc.yaml")
    for line in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        subprocess.run([*dvc, *line], cwd=tmp_path, check=True)
    (tmp_path / folder / "other.safetensors").write_bytes(b"two")
    status = subprocess.run([*dvc, "status", "--json"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert set(yaml.load(status.stdout)) == {"user"}
