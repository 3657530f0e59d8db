"""A training that is stopped in any way, at any moment, gives bitwise the same model as one that is not."""

import dataclasses
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import tiny_training as tiny
import torch
from forked import PROCESSES

from ddpm.errors import UserError
from ddpm.tracker import NullTracker
from ddpm.training import checkpoint_folder
from ddpm.training.run import Stopped

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
STOPS = {
    "terminated": signal.SIGTERM,  # finishes the step and saves
    "killed": signal.SIGKILL,  # as the kernel does if the machine's memory runs out
    "out of memory": signal.SIGUSR1,
    "disk full": signal.SIGUSR2,  # continues without saving until it is killed
}


def start(folder: Path, **options: object) -> ForkServerProcess:
    process = PROCESSES.Process(target=tiny.as_process, args=(folder,), kwargs=options)
    process.start()
    return process


@pytest.fixture(scope="module", params=DEVICES)
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, float, float]:
    """The device, the model's sha256, seconds until the training begins, and seconds of training."""
    folder = tmp_path_factory.mktemp("undisturbed")
    first = PROCESSES.Process(target=time.monotonic)
    first.start()
    first.join()  # the server is up
    began = time.monotonic()
    process = start(folder, device=request.param)
    process.join()
    seconds = float((folder / "seconds").read_text())
    assert process.exitcode == 0, (folder / "log").read_text()
    return request.param, tiny.sha256_of(folder / "model.safetensors"), time.monotonic() - began - seconds, seconds


@pytest.mark.parametrize("stops", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_stopped_in_every_way_at_random_moments_it_ends_with_the_same_model(
    stops: int, undisturbed: tuple[str, str, float, float], tmp_path: Path
) -> None:
    device, expected, startup, seconds = undisturbed
    draw = random.Random(stops)
    kinds = (list(STOPS) * stops)[:stops]
    draw.shuffle(kinds)
    while kinds:
        process = start(tmp_path, device=device)
        time.sleep(draw.uniform(0, startup + 2 * seconds / stops))
        if (
            process.exitcode == 0
        ):  # the machine is faster now: the finished training counts, and the next is stopped sooner
            assert tiny.sha256_of(tmp_path / "model.safetensors") == expected
            startup, seconds = startup / 2, seconds / 2
            continue
        kind = kinds.pop()
        os.kill(process.pid, STOPS[kind])  # type: ignore[arg-type]
        if kind == "disk full":
            time.sleep(0.15)
            process.kill()
        process.join(30)
        if process.exitcode is None:  # the error was raised where Python can only print it
            process.kill()
            process.join()
        assert process.exitcode in (-STOPS[kind], 128 + signal.SIGTERM, -signal.SIGKILL, 1, 0)
    process = start(tmp_path, device=device)
    process.join()
    log = (tmp_path / "log").read_text()
    assert process.exitcode == 0, log
    assert tiny.sha256_of(tmp_path / "model.safetensors") == expected, log
    assert {path.name for path in tmp_path.iterdir()} == {"log", "seconds", "model.safetensors"}


def die_in_a_write(folder: Path, flush: int) -> None:
    """Train; SIGKILL comes a third of a second after the thread that writes has come to its n-th flush."""
    fsync, flushes = os.fsync, itertools.count(1)

    def fsync_or_die(handle: int) -> None:
        if threading.current_thread() is not threading.main_thread() and next(flushes) == flush:
            time.sleep(0.3)  # the training continues meanwhile
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)

    os.fsync = fsync_or_die
    tiny.as_process(folder)


def test_killed_while_a_thread_writes_a_checkpoint_it_ends_with_the_same_model(
    undisturbed: tuple[str, str, float, float], tmp_path: Path
) -> None:
    device, expected, *_ = undisturbed
    seen = []
    for flush in (1, 2, 3, 4):  # of a file before it is renamed, and of the folder after
        process = PROCESSES.Process(target=die_in_a_write, args=(tmp_path, flush))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        seen.append(max((path.name for path in tmp_path.rglob("checkpoint-*.safetensors")), default=""))
    assert seen == sorted(seen)
    assert seen[0] == ""
    process = start(tmp_path, device=device)
    process.join()
    assert tiny.sha256_of(tmp_path / "model.safetensors") == expected, (tmp_path / "log").read_text()


def test_a_step_that_memory_is_too_small_for_is_one_sentence_and_the_checkpoint_stays(tmp_path: Path) -> None:
    large = dataclasses.replace(tiny.SETTINGS, images=1 << 16, batch_size=1 << 15)
    process = start(tmp_path, settings=large, memory=200 << 20)
    process.join()
    said = (tmp_path / "log").read_text().splitlines()
    assert process.exitcode == 1
    assert "lower runtime.device_batch" in said[-1]
    assert "continues after 0 images" in said[-1]
    assert len(list(tmp_path.rglob("checkpoint-000000000000-*.safetensors"))) == 1


class AtTheFirstRow(NullTracker):
    """Runs actions in the middle of a training: when its first row of curves is logged."""

    def __init__(self, *actions) -> None:  # type: ignore[no-untyped-def]
        self.actions = list(actions)

    def log(self, metrics: Mapping[str, float], *, images_seen: int) -> None:
        while self.actions:
            self.actions.pop(0)()


def test_a_training_goes_on_while_the_disk_is_full_and_ends_with_the_same_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = dataclasses.replace(tiny.SETTINGS, images=16 * 40)
    calm = tiny.begin(tmp_path / "calm", settings=short)
    curves = tiny.run(calm)
    training = tiny.begin(tmp_path / "full", settings=short, checkpoint_seconds=1e-9)
    try:
        assert tiny.run(training, AtTheFirstRow(training.settle, tiny.fill_disk)) == curves
    finally:
        tiny.empty_disk()
    said = capsys.readouterr().out
    assert "File too large" in said  # message of the file size limit, which replaces a full disk
    assert f"only the first {training.saved_images} images of this training are saved" in said
    # The row at 320 images was logged before that step's own save.
    assert training.saved_images == 304
    assert [path.name[11:23] for path in checkpoint_folder.checkpoints(training.folder)] == [
        "000000000288",
        "000000000304",
    ]
    weights, same = training.state.ema.network.state_dict(), calm.state.ema.network.state_dict()
    assert all(torch.equal(value, same[name]) for name, value in weights.items())


def test_a_training_stopped_while_the_disk_is_full_says_what_is_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = tiny.begin(tmp_path, checkpoint_seconds=1e-9)
    stop = AtTheFirstRow(training.settle, tiny.fill_disk, lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with pytest.raises(Stopped) as stopped:
            tiny.run(training, stop)
    finally:
        tiny.empty_disk()
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "stopped after 320 images, of which 304 are saved" in capsys.readouterr().out
    assert tiny.begin(tmp_path).state.images_seen == 304


def test_a_training_that_can_save_nothing_from_the_start_is_refused(tmp_path: Path) -> None:
    training = tiny.begin(tmp_path)
    tiny.fill_disk()
    try:
        with pytest.raises(UserError, match="make space there and start again"):
            tiny.run(training)
    finally:
        tiny.empty_disk()


@pytest.mark.slow
def test_two_processes_with_other_hash_seeds_write_the_same_model_file(
    undisturbed: tuple[str, str, float, float], tmp_path: Path
) -> None:
    # The script requires deterministic kernels as well; a CPU has only such kernels.
    device, expected, *_ = undisturbed
    script = [sys.executable, str(Path(tiny.__file__)), str(tmp_path)]
    done = subprocess.run(script, env=os.environ | {"PYTHONHASHSEED": "17"}, capture_output=True, text=True, check=True)
    assert device != "cpu" or done.stdout.split()[-1] == expected
