"""A manifest of any length as `prepare` would write it, made part by part, with data of 1x1 pixels.

python simulated_manifest.py FOLDER FILES     # prints the peak memory of this process in MiB
"""

import json
import sys
from pathlib import Path

import numpy as np

from ddpm.compute.executors import Crew, Pieces
from ddpm.data import manifest
from ddpm.data.preparing.decode_file import RECORD
from ddpm.data.preparing.layout import OPEN, TEST, TRAIN
from ddpm.data.preparing.manifest_part import Part, write_part
from ddpm.data.preparing.reasons import REASONS
from ddpm.data.reading.shard_index import Index, write_index, write_shard

CLASSES = tuple(f"class {k}" for k in range(10))
PART = 20_000
REJECTED_EVERY, TEST_EVERY, TWIN_EVERY = 50, 10, 1000


def simulate(prepared: Path, n: int) -> None:
    """Write the manifest, shards and facts of n files, a multiple of 1,000.

    Of every 1,000 files, 20 are rejected and 100 are in test; one of these has the pixels of the next file, in train.
    """
    (prepared / manifest.FOLDER).mkdir(parents=True)
    tasks = Pieces(-(-n // PART), lambda number: simulated_part(prepared, number, min(PART, n - number * PART)))
    with Crew(workers=1, cluster=None, threads=False, scratch=prepared) as crew:
        for _ in crew.run(write_part, tasks):
            pass
    counts = {"train": n // 1000 * 880, "test": n // 1000 * 100}
    for name, images in counts.items():
        (prepared / name).mkdir()
        pixels = (np.zeros((min(10**6, images - start), 1, 1, 1), np.uint8) for start in range(0, images, 10**6))
        shard = write_shard(prepared / name, 0, pixels, n=images, shape=(1, 1, 1), store=None)
        write_index(prepared / name, Index(None, (shard,)))
    facts = {"name": "simulated", "source": "folder", "channels": 1, "size": 1, "classes": CLASSES, "found": n}
    facts |= {**counts, "kept": sum(counts.values()), "rejected": {REASONS[0]: n // 50}, "content_hash": "0" * 64}
    (prepared / "dataset.json").write_text(json.dumps(facts))


def simulated_part(prepared: Path, number: int, n: int) -> Part:
    files = np.arange(number * PART, number * PART + n)
    random = np.random.default_rng(number)
    records = np.zeros(n, RECORD)
    rejected = files % REJECTED_EVERY == 0
    splits = np.where(files % TEST_EVERY == 1, TEST, TRAIN)
    splits[rejected] = OPEN
    records["reason"] = rejected
    records["width"] = records["height"] = random.integers(1, 500, n)
    records["mode"] = b"RGB"
    records["mean"], records["std"] = random.uniform(10, 240, n), 10
    for name in ("sha256", "pixel_sha256"):
        records[name] = random.integers(0, 256, (n, 32), np.uint8)
    twins = np.flatnonzero(files % TWIN_EVERY == 1)
    records["pixel_sha256"][twins] = records["pixel_sha256"][twins + 1]
    before = number * PART // 1000
    return Part(
        path=manifest.part_path(prepared, number),
        paths=[f"folder/{file:09d}.png" for file in files],
        records=records,
        splits=splits.astype(np.int8),
        labels=np.where(rejected, -1, files // 10 % 10).astype(np.int64),
        classes=CLASSES,
        before={TRAIN: before * 880, TEST: before * 100},
    )


if __name__ == "__main__":
    simulate(Path(sys.argv[1]), int(sys.argv[2]))
    status = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")))
