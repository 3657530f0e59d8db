"""DVC sees a guide by its content, not by its name."""

import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


def test_a_guide_with_other_content_changes_sample_and_no_training(tmp_path: Path) -> None:
    yaml = YAML(typ="safe")
    stages = yaml.load(ROOT / "dvc.yaml")["stages"]
    told = {name: stages[name]["cmd"].split() for name in ("sample", "register")}
    folders = {words[words.index("--guides") + 1] for words in told.values()}
    assert folders == {"data/guides"}
    users = [name for name, stage in stages.items() if "data/guides" in stage["deps"]]
    assert users == ["sample", "register"]

    dvc = [sys.executable, "-m", "dvc"]
    (tmp_path / "data/guides").mkdir(parents=True)
    (tmp_path / "data/guides/weaker.safetensors").write_bytes(b"one")
    small = {name: {"cmd": f"touch {name}", "outs": [name]} for name in ("train", "sample")}
    small["sample"]["deps"] = ["data/guides"]
    yaml.dump({"stages": small}, tmp_path / "dvc.yaml")
    for words in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        subprocess.run([*dvc, *words], cwd=tmp_path, check=True)
    (tmp_path / "data/guides/weaker.safetensors").write_bytes(b"two")
    status = subprocess.run([*dvc, "status", "--json"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert set(YAML(typ="safe").load(status.stdout)) == {"sample"}
