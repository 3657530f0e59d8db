"""The prepare stage as DVC runs it: progress, one-sentence errors, and no trace of a run that was killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from ruamel.yaml import YAML

from ddpm.data.dataset import read_facts

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "ddpm.stages.prepare", "--raw", "raw"]
COMMAND += ["--prepared", "data/prepared", "--state", ".state/prepare"]


def project(folder: Path, **changes: dict[str, Any]) -> Path:
    yaml = YAML(typ="safe")
    params = yaml.load((ROOT / "params.yaml").read_text())
    for section, values in changes.items():
        params[section] |= values
    yaml.dump(params, folder / "params.yaml")
    return folder


def stage(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_default_source_is_prepared_with_a_progress_bar(tmp_path: Path) -> None:
    done = stage(project(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "found 1797, kept 1797 (1438 train, 359 test); 8x8, 1 channel(s), 10 classes" in done.stdout
    assert "decode: 100%" in done.stderr


def test_a_user_error_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    done = stage(project(tmp_path, data={"source": "folder"}))
    assert done.returncode == 1
    assert done.stderr == "error: data.path is raw, which was not found; give the folder of your images\n"


def test_a_killed_stage_leaves_no_data_and_the_next_one_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for k, noise in enumerate(np.random.default_rng(0).integers(0, 256, (1000, 8, 8, 3), np.uint8)):
        Image.fromarray(noise).save(tmp_path / "raw" / f"{k:04d}.bmp")
    project(tmp_path, data={"source": "folder", "size": 128, "channels": 3})
    running = psutil.Popen(COMMAND, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (kept := list((tmp_path / ".state").rglob("*.npy"))):
        assert time.monotonic() < deadline, "the stage did not begin to decode"
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert not (tmp_path / "data" / "prepared").exists()
    assert (tmp_path / "data" / ".prepared.part" / ".gitignore").read_text() == "*\n"
    decoded = {path: path.stat().st_mtime_ns for path in kept}
    assert stage(tmp_path).returncode == 0
    assert read_facts(tmp_path / "data" / "prepared").kept == 1000
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["prepared"]
    assert {path: path.stat().st_mtime_ns for path in kept} == decoded
