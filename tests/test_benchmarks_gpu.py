"""Every part of `make gpu` runs on a CPU with tiny sizes; without a GPU the command says so and exits with 0."""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from waiting import HANG_SECONDS, wait_for

ROOT = Path(__file__).parents[1]
SESSION = ROOT / "benchmarks" / "gpu_session.py"
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu_goals  # noqa: E402

PEERS = ("training-512", "sampling")
SAME = ("training-128",)
"""Parts that run the code of another with another number."""


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(part, marks=pytest.mark.slow if part in PEERS else ())
        for part in gpu_goals.PARTS
        if part not in SAME
    ],
)
def test_every_part_measures_all_its_numbers(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if part in PEERS:
        for peer in ("diffusers", "accelerate"):
            pytest.importorskip(peer, reason="the peers are installed by `make bench-setup`")
    import gpu
    import peaks
    import torch
    from gpu_run import Run

    monkeypatch.setattr(peaks, "REPETITIONS", 1)
    found = gpu.measure(part, Run(torch.device("cpu"), tiny=True), tmp_path / "part.json")
    assert found.keys() == gpu_goals.PARTS[part].keys()
    assert json.loads((tmp_path / "part.json").read_text()) == found
    assert all(value is None or value >= 0 for value in found.values())


def test_a_session_runs_every_part_with_goals() -> None:
    import gpu
    import gpu_session

    assert {part.name for part in gpu_session.PARTS} - {"tests"} == gpu.PARTS.keys() == gpu_goals.PARTS.keys()
    seconds = [sum(part.seconds for part in gpu_session.PARTS if part.call == call) for call in (1, 2, 3)]
    assert max(seconds) <= 540  # a call of ten minutes needs some for what is around the parts
    assert sum(seconds) <= 25 * 60


@pytest.mark.parametrize(
    ("target", "wrong", "values"),
    [
        (2.0, 1.0, {2.5: "reached", 2.0: "reached", 1.5: "missed", 1.0: "missed", 0.9: "wrong"}),
        (0.03, 0.15, {0.0: "reached", 0.03: "reached", 0.1: "missed", 0.2: "wrong"}),
    ],
)
def test_a_value_is_judged_by_its_goal(target: float, wrong: float, values: dict[float, str]) -> None:
    goal = gpu_goals.Goal("x", target, wrong)
    assert {value: goal.verdict(value) for value in values} == values
    assert gpu_goals.Goal("x").verdict(1.0) == ""


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return dict(os.environ)


def test_without_a_gpu_the_command_counts_the_tests_and_ends_well(without_gpu: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, str(SESSION), "--output", str(tmp_path / "out"), "--wheels", str(tmp_path)]
    done = subprocess.run(command, env=without_gpu, capture_output=True, text=True, timeout=HANG_SECONDS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"no GPU: [1-9]\d* tests skipped\n", done.stdout)
    assert not (tmp_path / "out").exists()


def session(folder: Path, parts: list[str], **options: Any) -> dict[str, Any]:
    """What a tiny session on the CPU writes."""
    import gpu_session

    arguments = ["--device", "cpu", "--tiny", "--output", str(folder), "--parts", *parts]
    arguments += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, str(SESSION), *arguments], capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "gpu.json").read_text())
    assert (folder / "gpu.md").read_text() == gpu_session.report(found) + "\n"
    return found


@pytest.mark.slow
def test_a_part_that_cannot_run_leaves_the_others_and_is_in_the_table_with_its_reason(tmp_path: Path) -> None:
    found = session(tmp_path, ["peaks", "cifar10"], data=tmp_path / "no.zip")
    assert found["parts"]["peaks"]["reason"] == ""
    assert found["parts"]["peaks"]["numbers"].keys() == gpu_goals.PARTS["peaks"].keys()
    assert "no.zip" in found["parts"]["cifar10"]["reason"]
    assert f"| **cifar10** | {found['parts']['cifar10']['reason']} |" in (tmp_path / "gpu.md").read_text()
    assert "torch" in found["machine"]


def test_a_process_that_does_not_end_is_stopped_with_its_children(tmp_path: Path) -> None:
    import gpu_session

    child = (
        "import subprocess, sys; print('began', flush=True); subprocess.run([sys.executable, '-c', 'while True: pass'])"
    )
    ended = gpu_session.run([sys.executable, "-c", child], limit=2, environment=os.environ, log=tmp_path / "log")
    assert ended.reason == "stopped after 2 s"
    assert ended.printed == "began\n"
    assert ended.seconds < 20


def test_a_session_that_is_terminated_leaves_no_process(tmp_path: Path) -> None:
    part = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)"
    program = (
        "import os, pathlib, sys; sys.path.insert(0, sys.argv[1]); import gpu_session as s; s.exit_on_sigterm(); "
        "s.ROOT = pathlib.Path('.'); "
        "s.run([sys.executable, '-c', sys.argv[2]], limit=600, environment=os.environ, log=pathlib.Path('log'))"
    )
    command = [sys.executable, "-c", program, str(SESSION.parent), part]
    process = subprocess.Popen(command, cwd=tmp_path)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), process=process)
    process.terminate()
    assert process.wait(HANG_SECONDS) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_outcomes_of_tests_are_read_and_a_stopped_call_keeps_those_before() -> None:
    import gpu_session

    printed = "tests/gpu/test_on_gpu.py::test_a[x, y] PASSED [ 3%]\ntests/gpu/test_on_gpu.py::test_b FAILED [ 5%]\n"
    printed += "tests/gpu/test_on_gpu.py::test_c "
    outcomes = dict(gpu_session.OUTCOME.findall(printed))
    assert list(outcomes.values()) == ["PASSED", "FAILED"]
    part = {"outcomes": outcomes, "reasons": {"tests/gpu/test_on_gpu.py::test_b": "assert 1 == 2"}}
    text = gpu_session.report({"machine": "", "parts": {"tests": part | {"reason": "stopped after 220 s"}}})
    assert "1 failed, 1 passed. stopped after 220 s" in text
    assert "- test_b: assert 1 == 2" in text


def test_the_calls_of_a_session_are_put_together(tmp_path: Path) -> None:
    import gpu_session

    for call, part in enumerate(("peaks", "features")):
        written = {"machine": f"machine {call}", "parts": {part: {"numbers": {}, "reason": ""}}}
        (tmp_path / f"{call}.json").write_text(json.dumps(written))
    found = gpu_session.merged([tmp_path / "0.json", tmp_path / "1.json"])
    assert (found["machine"], list(found["parts"])) == ("machine 1", ["peaks", "features"])


def test_the_page_has_a_line_for_every_goal() -> None:
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    section = text.partition("<!-- begin gpu -->")[2].partition("<!-- end gpu -->")[0]
    for goals in gpu_goals.PARTS.values():
        assert all(f"| {name} | " in section for name in goals)


def write_zip(path: Path, number: int) -> None:
    """Pictures of two classes, in train and test."""
    import io

    from PIL import Image

    with zipfile.ZipFile(path, "w") as archive:
        for k in range(number):
            content = io.BytesIO()
            Image.new("RGB", (32, 32), (k, 0, 0)).save(content, "png")
            archive.writestr(f"{('train', 'test')[k % 2]}/{('a', 'b')[k // 2 % 2]}/{k}.png", content.getvalue())


def test_images_of_a_zip_are_read_with_their_classes_and_a_smaller_copy_keeps_all_of_these(tmp_path: Path) -> None:
    import gpu_session
    from common import load_images

    write_zip(tmp_path / "all.zip", 40)
    images = load_images(tmp_path / "all.zip")
    assert images.train.shape == images.test.shape == (20, 3, 32, 32)
    assert images.classes == ("a", "b")
    assert images.train_labels is not None
    assert images.train_labels.tolist() == [0, 1] * 10
    assert images.train[:, 0, 0, 0].tolist() == list(range(0, 40, 2))
    size = (tmp_path / "all.zip").stat().st_size
    gpu_session.fewer(tmp_path / "all.zip", tmp_path / "few.zip", megabytes=0.55e-6 * size)
    few = load_images(tmp_path / "few.zip")
    assert len(few.train) + len(few.test) == 22
    assert few.train_labels is not None
    assert set(few.train_labels.tolist()) == {0, 1}


def test_a_zip_may_have_other_files_beside_its_folders_but_no_other_files_in_them(tmp_path: Path) -> None:
    from common import load_images

    from ddpm.errors import UserError

    path = tmp_path / "all.zip"
    write_zip(path, 4)
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("README", "../../train/a/outside.png", "/"):
            archive.writestr(name, "no image")
    assert len(load_images(path).train) == 2
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train/a/.DS_Store", "no image")
    with pytest.raises(UserError, match=r"'train/a/\.DS_Store' in .*all\.zip is no image"):
        load_images(path)
