"""The prepare stage as DVC runs it: progress, one-sentence errors, and no trace of a run that was killed."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from ruamel.yaml import YAML
from waiting import wait_for

from ddpm.data.reading.dataset import read_facts

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "ddpm.stages.prepare"]
COMMAND += ["--prepared", "data/prepared", "--state", ".state/prepare"]


def project(folder: Path, **changes: dict[str, Any]) -> Path:
    yaml = YAML(typ="safe")
    params = yaml.load((ROOT / "params.yaml").read_text())
    params["data"]["path"] = "raw"
    for section, values in changes.items():
        params[section] |= values
    yaml.dump(params, folder / "params.yaml")
    return folder


def stage(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True)


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
    wait_for(lambda: list((tmp_path / ".state").rglob("*.npy")), every=0.02, process=running)
    kept = list((tmp_path / ".state").rglob("*.npy"))
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert not (tmp_path / "data" / "prepared").exists()
    assert (tmp_path / "data" / ".prepared.part" / ".gitignore").read_text() == "*\n"
    decoded = {path: path.stat().st_mtime_ns for path in kept}
    assert stage(tmp_path).returncode == 0
    assert read_facts(tmp_path / "data" / "prepared").kept == 1000
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["prepared"]
    assert {path: path.stat().st_mtime_ns for path in kept} == decoded


def test_the_name_of_the_folder_of_images_is_no_command_and_any_name_works(tmp_path: Path) -> None:
    name = "-$(touch owned) `touch owned` ${HOME} $HOME a'b\"c;touch owned;|&#*?[x]{y}\\ \t ~ line\nbreak \x1b[31m é"
    (tmp_path / name).mkdir()
    for k, noise in enumerate(np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)):
        Image.fromarray(noise).save(tmp_path / name / f"{k}.png")
    project(tmp_path, data={"source": "folder", "path": name})
    yaml = YAML(typ="safe")
    stages = yaml.load(ROOT / "dvc.yaml")["stages"]
    prepare = stages["prepare"] | {"deps": ["${data.path}"]}
    yaml.dump({"stages": {"prepare": prepare}}, tmp_path / "dvc.yaml")
    assert "${data.path}" in stages["prepare"]["deps"]
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = True\n    analytics = false\n")
    done = dvc(tmp_path, "repro")
    assert done.returncode == 0, done.stderr
    assert read_facts(tmp_path / "data" / "prepared").kept == 10
    assert not list(tmp_path.rglob("owned"))
    assert json.loads(dvc(tmp_path, "status", "--json").stdout) == {}
    (tmp_path / name / "9.png").unlink()
    assert json.loads(dvc(tmp_path, "status", "--json").stdout) == {"prepare": [{"changed deps": {name: "modified"}}]}


def dvc(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_rejected_files_are_printed_by_name_five_of_them_and_each_on_one_line(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for k, noise in enumerate(np.random.default_rng(0).integers(0, 256, (90, 8, 8, 3), np.uint8)):
        Image.fromarray(noise).save(raw / f"{k:04d}.png")
    whole = (raw / "0000.png").read_bytes()
    (raw / "cut\nshort.png").write_bytes(whole[: len(whole) // 2])
    project(tmp_path, data={"source": "folder", "labels": False})
    said = stage(tmp_path).stdout
    assert "\nrejected cut\\nshort.png: truncated or damaged\n" in said
    assert "\ndata.size is null, so the images get a size that fits them: 8 pixels. " in said
    assert "\nwarning: there are only 72 training and 18 held-out images, " in said
    for limit in (
        "validate.min_test_images is 100 (possible: at most 18)",
        "evaluate.kid_subset_size is 100 (possible",
    ):
        assert limit in said
    for k in range(6):
        (raw / f"text {k}.png").write_text("no image")
    said = stage(tmp_path).stdout
    assert "rejected cut\\nshort.png: truncated or damaged" in said
    assert said.count("\nrejected ") == 5
    assert "\nand 2 more; all rejected files and the reasons: data/prepared/rejected.csv\n" in said
    rows = list(csv.reader((tmp_path / "data/prepared/rejected.csv").open(newline="")))
    assert (rows[0], rows[1], len(rows)) == (["reason", "file"], ["truncated or damaged", "cut\\nshort.png"], 8)
