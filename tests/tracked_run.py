"""A small training's run in MLflow, as several tests start it."""

import json
from pathlib import Path
from typing import Any

from ddpm.data.reading.dataset import Facts
from ddpm.tracking.run_json import run_record
from ddpm.tracking.run_tracker import MlflowTracker
from ddpm.tracking.training_run import start_run

FACTS = Facts(
    name="shapes",
    source="folder",
    channels=1,
    size=8,
    classes=("circle", "square"),
    train=80,
    test=20,
    found=101,
    kept=100,
    rejected={"truncated": 1},
    content_hash="0123456789abcdef" * 4,
)


PREPARED = Path("data/prepared")


def start(run_id: str | None = None, kept: Path | None = None) -> MlflowTracker:
    return start_run(experiment="tests", name="a training", facts=FACTS, prepared=PREPARED, run_id=run_id, kept=kept)


def run_of(tracker: MlflowTracker) -> Any:
    return tracker.client.get_run(tracker.id)


def write_run(tracker: MlflowTracker, path: Path, model_sha256: str = "s" * 64) -> Path:
    path.write_text(json.dumps(run_record(tracker, model_sha256=model_sha256)))
    return path


KILLED_TRAINING = """
import os, signal
from pathlib import Path
from PIL import Image
from ddpm.data.reading.dataset import Facts
from ddpm.tracking import run_tracker
from ddpm.tracking.training_run import start_run
run_tracker.FLUSH_SECONDS = {flush}
facts = Facts(**{facts!r})
tracker = start_run(
    experiment="tests", name="a training", facts=facts, prepared=Path("data/prepared"), kept=Path("kept")
)
print(tracker.id, flush=True)
for seen in (100, 200, 300):
    tracker.log({{"loss": seen / 100}}, images_seen=seen)
tracker.image("training/samples", Image.new("L", (16, 16)), images_seen=200)
if {flush} < 1:
    tracker.settle()
os.kill(os.getpid(), signal.SIGKILL)
"""
