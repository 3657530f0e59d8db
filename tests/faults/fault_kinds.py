"""The faults: each a function that makes one in the middle of a stage, and returns when it is over."""

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from mounts import mounted
from proxy import State
from site_of_servers import Server, Site
from small_pipeline import draw_pictures
from sweep import Fault, Moment

GONE_SECONDS = 30.0
"""Longest time without network; it is back earlier if the stage ends earlier."""
OUTPUTS = {"prepare": "data", "train": "models", "sample": "data", "evaluate": "reports", "register": "models"}
"""Folders that a stage, or dvc for it, writes to."""


def kill_stage(moment: Moment) -> None:
    _kill(moment.process)


def kill_dvc(moment: Moment) -> None:
    """The stage notices that its dvc has ended, and ends too."""
    with suppress(psutil.NoSuchProcess):
        for each in moment.process.parents():
            if "dvc" in each.cmdline():
                _kill(each)


def kill_flow(moment: Moment) -> None:
    process = moment.site.flow(moment.run)
    assert process is not None
    _kill(process)
    psutil.wait_procs([process])


def kill_worker(moment: Moment) -> None:
    """Prefect ends the flow of a worker that has ended, with the state Crashed."""
    moment.site.kill_worker()
    moment.site.start_worker()


def kill_prefect(moment: Moment) -> None:
    moment.site.prefect.kill()
    moment.site.prefect.start()


def kill_mlflow(moment: Moment) -> None:
    moment.site.mlflow.kill()
    moment.site.mlflow.start()


def kill_all(moment: Moment) -> None:
    """A power cut: all processes end at once; then the servers and a worker start."""
    there = moment.site
    for each in there.project.processes():
        _kill(each)
    for started in (there.prefect.process, there.mlflow.process, there.worker):
        started.wait()
    there.prefect.start()
    there.mlflow.start()
    there.start_worker()


def network(server: Callable[[Site], Server], state: State) -> Fault:
    """The network between flow and stages and a server: silent, or every connection is reset."""

    def gone(moment: Moment) -> None:
        proxy = server(moment.site).proxy
        proxy.set(state)
        try:
            psutil.wait_procs([moment.process], timeout=GONE_SECONDS)
        finally:
            proxy.set("open")

    return gone


def full_disk(moment: Moment) -> None:
    """The disk of the project is full until the retraining has ended."""
    ballast = moment.site.path.parent / "ballast"
    try:
        _fill_up(ballast)
        _ends_with_a_sentence(moment)
    finally:
        ballast.unlink()


def read_only_outputs(moment: Moment) -> None:
    with _read_only(moment.site.path / OUTPUTS[moment.stage]):
        _ends_with_a_sentence(moment)


def read_only_artifacts(moment: Moment) -> None:
    """MLflow's server cannot write its artifacts."""
    with _read_only(moment.site.artifacts):
        _ends_with_a_sentence(moment)


NEED_MOUNTS = (full_disk, read_only_outputs, read_only_artifacts)


def add_pictures(moment: Moment) -> None:
    """The data change while stage `prepare` reads them, which it refuses."""
    _wait_for_reading(moment)
    draw_pictures(moment.site.path / "data/raw", 5, seed=time.time_ns() % 1_000_000)
    _ends_with_a_sentence(moment, expected="changed while it was read")


OWN_MOMENT = (add_pictures,)
"""Faults that wait for their moment in the stage themselves."""


def _wait_for_reading(moment: Moment) -> None:
    """Stage `prepare` makes its folder when it has listed the data and before it reads them."""
    folder, started = moment.site.path / "data/.prepared.part", moment.process.create_time()
    while True:
        with suppress(FileNotFoundError):
            if folder.stat().st_mtime > started:
                return
        assert moment.process.is_running(), "the stage ended before its reading was seen"
        time.sleep(0.002)


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def _ends_with_a_sentence(moment: Moment, *, expected: str = "") -> None:
    """The retraining ends; a failure is one sentence, which contains what is expected."""
    state = moment.site.end_of(moment.run)
    print(moment.stage, state.name, state.message, flush=True)
    assert "Traceback" not in (state.message or ""), state
    assert "\n" not in (state.message or "").strip(), state
    assert expected in (state.message or ""), state


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield


def _fill_up(path: Path) -> None:
    """Write a file until the disk has no space left."""
    for size in (1 << 20, 1 << 12, 1):
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            _write_without_end(path, size)


def _write_without_end(path: Path, size: int) -> None:
    with path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(size))
