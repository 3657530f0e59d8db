"""Memory and time of `prepare` and `validate` for up to ten million files."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
FEW, MANY = 10_000, 10_000_000
FILES = 200_000
STAGE = """
import runpy, sys, time
name, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(name, run_name="__main__")
finally:
    print(time.process_time())
    print([int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""
"""Runs a stage and prints the CPU seconds and the peak memory in MiB of this process."""
LENIENT = {"max_rejected_share": 0.1, "max_test_duplicates": MANY, "max_upscaled_share": 1.0}


def run(*command: str | Path, folder: Path) -> list[float]:
    """Run Python with this command and return the numbers that it prints last, each on a line of its own."""
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = itertools.takewhile(lambda line: re.fullmatch(r"[\d.]+", line), reversed(done.stdout.split()))
    return [float(line) for line in lines][::-1]


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
    """Peaks may grow by 60 MiB where the manifest is written, and by 100 MiB where it is validated."""
    writing, validating = [], []
    for n in (FEW, MANY):
        folder = tmp_path / str(n)
        (folder / "data").mkdir(parents=True)
        simulator = Path(__file__).with_name("simulated_manifest.py")
        writing += run(simulator, folder / "data" / "prepared", str(n), folder=folder)
        limits = {**LENIENT, "sample_rows": FEW}
        validating += run(*stage_of(folder, "validate", validate=limits), folder=folder)[1:]
        report = json.loads((folder / "reports" / "validation.json").read_text())
        assert (report["found"], report["rejected"], report["test_duplicates"]) == (n, n // 50, n // 1000)
        assert report.get("sample") == (None if n == FEW else FEW)
        assert (folder / "reports" / "data_docs" / "index.html").stat().st_size < 1e6
    print(f"peak memory, MiB: writing {writing}, validating {validating}")
    assert writing[1] - writing[0] < 60, f"peak memory {writing} MiB"
    assert validating[1] - validating[0] < 100, f"peak memory {validating} MiB"


@pytest.mark.slow
def test_preparing_a_file_takes_a_bounded_memory_and_time(tmp_path: Path) -> None:
    """Preparing a small file (an 8x8 PNG) takes at most 450 bytes of memory and one millisecond of CPU time."""
    room = os.statvfs(tmp_path)
    if room.f_favail < 3 * FILES or room.f_bavail * room.f_frsize < 10_000 * FILES:
        pytest.skip(f"{FILES} files need {3 * FILES} inodes and {10_000 * FILES / 1e9:.0f} GB at {tmp_path}")
    seconds, peaks = [], []
    for n in (FILES // 5, FILES):
        write_files(tmp_path / str(n) / "data" / "raw", n)
        used, peak = prepared(tmp_path / str(n), n)
        seconds.append(used)
        peaks.append(peak)
    more = FILES - FILES // 5
    per_file, time_per_file = (peaks[1] - peaks[0]) * 2**20 / more, (seconds[1] - seconds[0]) / more
    print(f"{FILES} files: {peaks} MiB, {per_file:.0f} bytes and {1000 * time_per_file:.2f} ms per file")
    assert per_file < 450, f"peak memory {peaks} MiB"
    assert time_per_file < 0.001, f"{seconds} CPU seconds"


def write_files(raw: Path, n: int) -> None:
    """Write n different 8x8 PNG files into ten class folders, a thousand per folder."""
    random = np.random.default_rng(0)
    for start in range(0, n, 1000):
        folder = raw / f"class {start // 1000 % 10}" / f"{start // 1000:04d}"
        folder.mkdir(parents=True)
        for k, pixels in enumerate(random.integers(0, 256, (min(1000, n - start), 8, 8), np.uint8)):
            Image.fromarray(pixels).save(folder / f"{k:03d}.png", compress_level=1)


def prepared(folder: Path, n: int) -> tuple[float, float]:
    """Run stages `prepare` and `validate`, and return the CPU seconds and the peak memory in MiB of the first."""
    used, peak = run(*stage_of(folder, "prepare", data={"source": "folder", "size": 8}), folder=folder)
    run(*stage_of(folder, "validate", validate=LENIENT), folder=folder)
    facts, report = (
        json.loads((folder / name).read_text()) for name in ("data/prepared/dataset.json", "reports/validation.json")
    )
    assert (facts["found"], facts["kept"], report["kept"]) == (n, n, n)
    return used, peak
