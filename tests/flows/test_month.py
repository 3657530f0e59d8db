"""A simulated month: what happens on each day in a real project with real runs of the flow, and which days train."""

import json
import os
import sys

import pytest
from coming_digits import furnish
from conftest import Prefect

DVC_YAML = """
stages:
  prepare:
    cmd: python -m ddpm.stages.prepare --prepared data/prepared --state .state/prepare
    deps: [data/raw]
    params: [data]
    outs: [data/prepared]
  train:
    cmd: python train.py
    deps: [data/prepared]
    params: [train.images]
    outs: [model.txt]
"""
TRAIN = "from pathlib import Path; Path('model.txt').write_text(Path('data/prepared/dataset.json').read_text())"
MONTH = """
import json, os, shutil, sys
from pathlib import Path
sys.path.insert(0, "flows")
from prefect.client.orchestration import get_client
from retrain import retrain
import dvc_stage

def add(name, to):
    shutil.copytree(Path("later") / name, to, dirs_exist_ok=True)

def more_images():
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("  images: 60000 ", "  images: 70000 ", 2))

push = {"trigger": "event", "because": "push by alice to main of alice/pictures"}
overdue = {"trigger": "overdue", "because": "no retraining for 14 days", "force": True}
before = {
    3: lambda: add("more", "data/raw"), 5: more_images, 9: lambda: add("event", "data/raw"),
    10: lambda: add("few", "incoming"), 12: lambda: add("same", "incoming"), 14: lambda: add("inverted", "incoming"),
    20: lambda: os.mkfifo("incoming/pipe.png"), 21: lambda: os.unlink("incoming/pipe.png"),
}
with_parameters = {9: push, 27: overdue, 30: {"force": True}}
found = {}
for day in range(1, 31):
    before.get(day, lambda: None)()
    for part in ([push, {}] if day == 9 else [with_parameters.get(day, {})]):
        state = retrain(**part, return_state=True)
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(state.state_details.flow_run_id)
        print(day, run.name, state.name, flush=True)
        found.setdefault(day, []).append([run.name.split(" ", 2)[2], sorted(run.tags), state.name, state.message])
Path("month.json").write_text(json.dumps(found))
"""


@pytest.mark.slow  # 31 runs of the flow
def test_a_month(prefect: Prefect) -> None:
    project = prefect.project
    furnish(project.path)
    for name, text in (("dvc.yaml", DVC_YAML), ("train.py", TRAIN), ("month.py", MONTH)):
        (project.path / name).write_text(text)
    done = project.run(sys.executable, "month.py", **prefect.environment)
    assert done.returncode == 0, done.stdout[-5000:]
    month = {int(day): runs for day, runs in json.loads((project.path / "month.json").read_text()).items()}
    trained = [(day, tags) for day, runs in month.items() for name, tags, *_ in runs if "nothing changed" not in name]
    assert trained == [
        (1, ["first", "person"]),
        (3, ["data", "person"]),
        (5, ["person", "settings"]),
        (9, ["data", "event"]),
        (14, ["data", "drift", "person"]),
        (27, ["forced", "overdue"]),
        (30, ["forced", "person"]),
    ]
    names = {day: runs[0][0] for day, runs in month.items()}
    assert names[3] == "data in data/raw modified"
    assert names[9] == "data in data/raw modified (push by alice to main of alice/pictures)"
    assert names[14].startswith("drift: Fréchet distance ")
    assert names[14].endswith(", data")
    assert names[27] == "forced (no retraining for 14 days)"
    messages = {day: runs[0][3] for day, runs in month.items()}
    assert "have not drifted: nothing differs beyond chance (240 incoming pictures" in messages[12]
    assert "retrain.incoming is incoming, in which pipe.png (a pipe) cannot be data" in messages[20]
    quiet = set(range(1, 31)) - {1, 3, 5, 9, 12, 14, 20, 27, 30}
    assert {messages[day] for day in quiet} == {"nothing has changed, so nothing was done"}
    assert len(list((project.path / "data/raw").rglob("incoming-*.png"))) == 440
    assert len(os.listdir(project.path / "incoming")) == 10, "the folder of incoming pictures keeps them"
