"""`ddpm plan` refuses photographs that a laptop cannot train, and needs little memory and time for the answer."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_photographs_of_200_pixels_are_refused_with_measured_numbers(tmp_path: Path) -> None:
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["data"].update(size=200, channels=3)
    yaml.dump(params, tmp_path / "params.yaml")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([Path(sys.executable).parent / "ddpm", "plan"], cwd=tmp_path, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "nothing is prepared: an estimate for pictures of 200x200, in colour" in done.stdout
    assert "this training " in done.stderr
    assert "train.max_hours is 1; raise it" in done.stderr
    assert "network.patch 2" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert after.ru_utime - before.ru_utime < 120  # some ten seconds; the training would take tens of hours
    assert 1024 * after.ru_maxrss < 4 << 30  # the training would take tens of GB
