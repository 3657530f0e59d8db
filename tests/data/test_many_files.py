"""Memory and time of `prepare` and `validate` for up to ten million files."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
FEW, MANY = 10_000, 10_000_000
FILES = int(os.environ.get("DDPM_TEST_FILES", 1_000_000))
STAGE = """
import runpy, sys
name, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(name, run_name="__main__")
finally:
    print([int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""
LENIENT = {"max_rejected_share": 0.1, "max_test_duplicates": MANY, "max_upscaled_share": 1.0}


def peak(*command: str | Path, folder: Path) -> float:
    """Run Python with this command and return the peak memory of its process in MiB, which it prints last."""
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return float(done.stdout.split()[-1])


def stage_of(folder: Path, name: str, **sections: dict[str, Any]) -> list[str]:
    """Return the command of a stage in `folder`, whose params.yaml has these changes."""
    yaml = YAML(typ="safe")
    params = yaml.load((ROOT / "params.yaml").read_text())
    for section, values in {"runtime": {"workers": 1, "progress": False}, **sections}.items():
        params[section] |= values
    yaml.dump(params, folder / "params.yaml")
    command = yaml.load((ROOT / "dvc.yaml").read_text())["stages"][name]["cmd"].split()
    return ["-c", STAGE, *command[2:]]


@pytest.mark.slow
def test_writing_the_manifest_and_validating_it_take_the_same_memory_for_ten_million_files(tmp_path: Path) -> None:
    """Writing may grow by 60 MiB and validating by 250 MiB, of which the digests of a million test images are most."""
    writing, validating = [], []
    for n in (FEW, MANY):
        folder = tmp_path / str(n)
        (folder / "data").mkdir(parents=True)
        simulator = Path(__file__).with_name("simulated_manifest.py")
        writing.append(peak(simulator, folder / "data" / "prepared", str(n), folder=folder))
        limits = {**LENIENT, "sample_rows": FEW}
        validating.append(peak(*stage_of(folder, "validate", validate=limits), folder=folder))
        report = json.loads((folder / "reports" / "validation.json").read_text())
        assert (report["found"], report["rejected"], report["test_duplicates"]) == (n, n // 50, n // 1000)
        assert report.get("sample") == (None if n == FEW else FEW)
        assert (folder / "reports" / "data_docs" / "index.html").stat().st_size < 1e6
    print(f"peak memory, MiB: writing {writing}, validating {validating}")
    assert writing[1] - writing[0] < 60, f"peak memory {writing} MiB"
    assert validating[1] - validating[0] < 250, f"peak memory {validating} MiB"


@pytest.mark.slow
def test_preparing_a_million_files_takes_a_bounded_memory_and_time_per_file(tmp_path: Path) -> None:
    """8x8 PNG files, whose pixels are next to nothing: 300 bytes of memory per file and a millisecond of time."""
    room = os.statvfs(tmp_path)
    if room.f_favail < 2 * FILES or room.f_bavail * room.f_frsize < 12_000 * FILES:
        pytest.skip(f"{FILES} files need {2 * FILES} inodes and {12_000 * FILES / 1e9:.0f} GB at {tmp_path}")
    peaks, seconds = [], []
    for n in (FILES // 50, FILES):
        folder = tmp_path / str(n)
        write_files(folder / "data" / "raw", n)
        began = time.perf_counter()
        stage = stage_of(folder, "prepare", data={"source": "folder", "size": 8})
        peaks.append(peak(*stage, folder=folder))
        seconds.append(time.perf_counter() - began)
        facts = json.loads((folder / "data" / "prepared" / "dataset.json").read_text())
        assert (facts["found"], facts["kept"]) == (n, n)
        assert validated(folder) == n
    per_file = (peaks[1] - peaks[0]) * 2**20 / (FILES - FILES // 50)
    print(f"{FILES} files: {seconds[1]:.0f} s, peak memory {peaks[1]:.0f} MiB, {per_file:.0f} bytes per file")
    assert per_file < 500, f"peak memory {peaks} MiB"


def write_files(raw: Path, n: int) -> None:
    """Write n different 8x8 PNG files into ten class folders, a thousand per folder."""
    random = np.random.default_rng(0)
    for start in range(0, n, 1000):
        folder = raw / f"class {start // 1000 % 10}" / f"{start // 1000:04d}"
        folder.mkdir(parents=True)
        for k, pixels in enumerate(random.integers(0, 256, (min(1000, n - start), 8, 8), np.uint8)):
            Image.fromarray(pixels).save(folder / f"{k:03d}.png", compress_level=1)


def validated(folder: Path) -> int:
    """Run stage `validate` and return the number of files that it counted."""
    peak(*stage_of(folder, "validate", validate=LENIENT), folder=folder)
    return int(json.loads((folder / "reports" / "validation.json").read_text())["kept"])
