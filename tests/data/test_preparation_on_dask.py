"""Images prepared by a local or a remote Dask cluster, whose workers are killed during the work."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from waiting import HANG_SECONDS, wait_for

from ddpm.compute import executors
from ddpm.data.preparing.prepare import prepare
from ddpm.errors import UserError
from ddpm.params import load as load_params

ROOT = Path(__file__).parents[2]
PROGRAM = f"""
import dataclasses, sys
from pathlib import Path
from ddpm.params import load as load_params
from ddpm.compute import executors
from ddpm.data.preparing.prepare import prepare
executors.START_SECONDS = 0.0
raw, out, cluster = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None
data = dataclasses.replace(load_params({str(ROOT / "params.yaml")!r}).data, source="folder", size=128, channels=3)
prepare(data, raw=raw, prepared=out / "prepared", state=out / "state", cluster=cluster, workers=2, progress=False)
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that one process prepares in about two seconds."""
    folder = tmp_path_factory.mktemp("raw")
    for k, noise in enumerate(np.random.default_rng(0).integers(0, 256, (1300, 8, 8, 3), np.uint8)):
        Image.fromarray(noise).save(folder / f"{k:04d}.bmp")
    return folder


@pytest.fixture(scope="module")
def expected(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The content of the prepared folder that one process makes of the same images."""
    folder = tmp_path_factory.mktemp("one") / "prepared"
    data = dataclasses.replace(load_params(ROOT / "params.yaml").data, source="folder", size=128, channels=3)
    prepare(data, raw=raw, prepared=folder, workers=1, progress=False)
    return contents(folder)


def start(raw: Path, out: Path, *cluster: str) -> psutil.Popen:
    command = [sys.executable, "-c", PROGRAM, str(raw), str(out), *cluster]
    return psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]


def partitions(out: Path) -> int:
    return len(list((out / "state").rglob("*.npy")))


def finish(running: psutil.Popen) -> None:
    output, errors = running.communicate(timeout=HANG_SECONDS)
    assert running.returncode == 0, output + errors


@pytest.mark.slow  # the remote cluster loses a worker, too
def test_a_killed_worker_of_the_local_cluster_loses_nothing(
    raw: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    running = start(raw, tmp_path)
    wait_for(lambda: partitions(tmp_path) >= 2, process=running)
    workers_of(running)[0].kill()
    finish(running)
    assert contents(tmp_path / "prepared") == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prepared", "state"]


def test_a_killed_preparation_leaves_no_workers_and_continues_where_it_stopped(
    raw: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    running = start(raw, tmp_path)
    wait_for(lambda: partitions(tmp_path) >= 2, process=running)
    workers = workers_of(running)
    assert len(workers) == 2
    running.send_signal(signal.SIGKILL)
    running.communicate()
    _, alive = psutil.wait_procs(workers, timeout=HANG_SECONDS)
    assert alive == []
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "state").rglob("*.npy")}
    finish(start(raw, tmp_path))
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "state").rglob("*.npy")}
    assert kept.items() <= after.items()
    assert contents(tmp_path / "prepared") == expected
    assert not list((tmp_path / "state").rglob("*.part"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[psutil.Popen]]]:
    """The address of a scheduler, and its two workers, each in its own process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    dask = [sys.executable, "-m", "dask"]
    options = ["--no-dashboard", "--local-directory", str(tmp_path)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    commands = [[*dask, "scheduler", "--no-dashboard", "--host", "127.0.0.1", "--port", address.rpartition(":")[2]]]
    commands += [[*dask, "worker", address, "--nthreads", "1", "--no-nanny", *options]] * 2
    processes = [
        psutil.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, **quiet) for command in commands
    ]
    try:
        yield address, processes[1:]
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


def test_a_remote_cluster_prepares_the_same_and_loses_nothing_if_a_worker_dies(
    raw: Path, expected: dict[str, bytes], cluster: tuple[str, list[psutil.Popen]], tmp_path: Path
) -> None:
    address, workers = cluster
    out = tmp_path / "out"
    running = start(raw, out, address)
    wait_for(lambda: partitions(out) >= 2, process=running)
    assert workers_of(running) == []
    workers[0].kill()
    finish(running)
    assert workers[1].poll() is None
    assert contents(out / "prepared") == expected


def test_a_scheduler_that_does_not_answer_is_reported_in_one_sentence(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_CONNECT_SECONDS", 1)
    data = dataclasses.replace(load_params(ROOT / "params.yaml").data, source="folder", size=8, channels=3)
    arguments = {"raw": raw, "prepared": tmp_path / "prepared", "workers": 1, "progress": False}
    for address in ("tcp://127.0.0.1:9", "nonsense"):
        with pytest.raises(UserError, match=f"runtime.cluster is {address}, where no Dask scheduler .* answered"):
            prepare(data, cluster=address, **arguments)


def end_the_process(piece: int) -> None:
    os._exit(1)


@pytest.mark.slow
def test_work_that_kills_every_worker_is_reported_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # so that workers can import this module
    with executors.Crew(workers=2, cluster=None, threads=False, scratch=tmp_path) as crew:
        crew._client = crew._local()
        with pytest.raises(UserError, match=r"was killed several times, .* lower runtime\.workers"):
            list(crew.run(end_the_process, [1]))
