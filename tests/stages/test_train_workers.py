"""The train stage in two processes: it is launched, loses a worker, is stopped, and ends with the same model."""

import ipaddress
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from ruamel.yaml import YAML
from test_train_stage import COMMAND, environment, finish, prepared, start, wait_for_checkpoint
from waiting import HANG_SECONDS, wait_for

from ddpm import model_file

__all__ = ["prepared"]  # the fixture


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(model_file.load(folder / "model.safetensors").network.state_dict())


def ask_for_two_processes(folder: Path, *, images: int) -> None:
    yaml = YAML(typ="safe")
    params = yaml.load((folder / "params.yaml").read_text())
    params["runtime"] |= {"processes": 2, "device": "cpu"}
    params["train"] |= {"images": images}
    yaml.dump(params, folder / "params.yaml")


@pytest.fixture(scope="module")
def undisturbed(prepared: Path) -> dict[str, torch.Tensor]:
    """The model of two processes; prepared/params.yaml asks for two from here on."""
    ask_for_two_processes(prepared, images=1280)
    finish(prepared)
    return weights(prepared)


def workers(stage: subprocess.Popen[str]) -> list[psutil.Process]:
    """By rank, once they are there."""
    wait_for(lambda: len(_ranked(stage)) == 2)
    return [process for _, process in sorted(_ranked(stage).items())]


def _ranked(stage: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    found = {}
    for child in psutil.Process(stage.pid).children():
        try:
            if "RANK" in child.environ():
                found[int(child.environ()["RANK"])] = child
        except psutil.Error:
            continue
    return found


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(b[name], value) for name, value in a.items())


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_run_ends_with_bitwise_the_same_model(
    prepared: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    curves = (prepared / "curves.csv").read_text()
    shutil.rmtree(prepared / ".state" / "train")
    stage = start(prepared)
    wait_for_checkpoint(prepared, stage, beyond=0)
    lost = workers(stage)[1]
    lost.kill()
    output, _ = stage.communicate(timeout=HANG_SECONDS)
    assert stage.returncode == 0, output
    assert "continuing after" in output
    assert same(undisturbed, weights(prepared))
    assert (prepared / "curves.csv").read_text() == curves


@pytest.mark.slow
def test_an_error_that_a_person_must_mend_is_said_once_and_not_tried_again(
    prepared: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    yaml = YAML(typ="safe")
    params = yaml.load((prepared / "params.yaml").read_text())
    params["train"] |= {"batch_size": 3}
    params["runtime"] |= {"device_batch": 1}  # 2 processes would need 4 images
    folder = prepared.parent / "unmended"
    shutil.copytree(prepared, folder)
    yaml.dump(params, folder / "params.yaml")
    stage = start(folder)
    output, _ = stage.communicate(timeout=HANG_SECONDS)
    assert stage.returncode == 1
    assert output.count("train.batch_size is 3, which 2 processes with 2 accumulation steps") == 1
    assert output.splitlines()[-1].startswith("error: train.batch_size is 3")


@pytest.mark.slow
def test_a_stage_of_two_processes_is_stopped_and_goes_on_and_its_workers_die_with_it(
    prepared: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    shutil.rmtree(prepared / ".state" / "train")
    stage = start(prepared)
    wait_for_checkpoint(prepared, stage, beyond=0)
    below = workers(stage)
    stage.send_signal(signal.SIGTERM)
    output, _ = stage.communicate(timeout=HANG_SECONDS)
    assert stage.returncode == 128 + signal.SIGTERM, output
    assert "the same command continues from there" in output
    assert not any(map(is_alive, below))

    for in_training in (False, True):
        names = [path.stem for path in (prepared / ".state").rglob("checkpoint-*.safetensors")]
        stage = start(prepared)
        below = workers(stage)
        if in_training:
            wait_for_checkpoint(prepared, stage, beyond=max(int(name.split("-")[1]) for name in names))
        stage.kill()
        wait_for(lambda below=below: not any(map(is_alive, below)))
        stage.communicate()
    assert "continuing after" in finish(prepared)
    assert same(undisturbed, weights(prepared))


@pytest.mark.slow
def test_torchrun_trains_the_same_model(prepared: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    torchrun = [sys.executable, *"-m torch.distributed.run --standalone --nproc-per-node 2".split()]
    # Behind "--", where torchrun looks for no options of its own.
    command = [*torchrun, "-m", "--", *COMMAND[1:]]
    shutil.rmtree(prepared / ".state" / "train")
    subprocess.run(command, cwd=prepared, env=environment() | {"OMP_NUM_THREADS": "1"}, check=True)
    assert same(undisturbed, weights(prepared))


def test_processes_of_one_machine_listen_to_nobody_outside_it(prepared: Path) -> None:
    folder = prepared.parent / "heard"
    shutil.copytree(prepared, folder)
    ask_for_two_processes(folder, images=10**6)
    stage = start(folder)
    heard: set[tuple[int, str]] = set()
    while len({pid for pid, _ in heard}) < 2:  # two that exchange gradients listen to each other
        assert stage.poll() is None, stage.stdout.read()  # type: ignore[union-attr]
        heard |= set(listening([psutil.Process(stage.pid), *psutil.Process(stage.pid).children(recursive=True)]))
        assert all(ipaddress.ip_address(address).is_loopback for _, address in heard), heard
        time.sleep(0.05)
    stage.terminate()
    assert stage.wait() == 128 + signal.SIGTERM


def listening(processes: list[psutil.Process]) -> Iterator[tuple[int, str]]:
    """The pid and the address of every socket of TCP on which one of them takes connections."""
    for process in processes:
        with suppress(psutil.Error):
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN:
                    yield process.pid, each.laddr.ip
