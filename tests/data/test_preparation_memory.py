"""Preparation keeps few images in memory at a time, however many there are."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]


def test_memory_stays_flat_while_the_number_of_images_grows(tmp_path: Path) -> None:
    """500 images of 192 KiB are 75 MiB more than 100 of them: memory may grow by at most a third of that."""
    program = """
import dataclasses, resource, sys
from pathlib import Path
from ddpm.data.preparing.settings import Data
from ddpm.params import load as load_params
from ddpm.data.preparing.prepare import prepare
data = dataclasses.replace(load_params(sys.argv[2]).data, source="folder", size=256, channels=3)
prepare(data, raw=Path(sys.argv[1]), prepared=Path(sys.argv[1] + "-out"), workers=1, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for n in (100, 500):
        raw = tmp_path / f"raw{n}"
        raw.mkdir()
        for k in range(n):
            noise = np.random.default_rng(k).integers(0, 256, (12, 12, 3), np.uint8)
            Image.fromarray(noise).save(raw / f"{k}.png")
        done = subprocess.run(
            [sys.executable, "-c", program, str(raw), str(ROOT / "params.yaml")],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout) / 1024)
        shutil.rmtree(f"{raw}-out")
    assert peaks[1] - peaks[0] < 25, f"peak memory {peaks} MiB"
