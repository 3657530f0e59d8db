"""A checkpoint of several processes: what is in its parts, who can restore it, and what a lost process costs."""

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import divided
import forked
import pytest
import tiny_training as tiny
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch import Tensor
from waiting import HANG_SECONDS

from ddpm.compute.processes import STORE_VARIABLE, joined, rank, together
from ddpm.training import checkpoint, checkpoint_file, checkpoint_folder, checkpoint_writer
from ddpm.training.checkpoint_writer import NotWrittenError, Writer
from ddpm.training.loop import State
from ddpm.training.sharding import Parallel

LAYOUTS: tuple[Parallel, ...] = ("ddp", "fsdp")


def trained(parallel: Parallel = "ddp") -> State:
    state = divided.begin(parallel)
    divided.run(state, device_batch=None)
    return state


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def pass_on(folder: Path) -> None:
    """As one of two processes: restore what one process wrote, write it, and restore it in the other division."""
    with joined(divided.PARAMS.runtime):
        for parallel in LAYOUTS:
            state = divided.begin(parallel)
            assert checkpoint.restore(folder / "one", state, fingerprint="f") == ({"at": 80}, [])
            checkpoint.save(folder / parallel, state, fingerprint="f", extra={"at": 80})
            for other in LAYOUTS:
                again = divided.begin(other)
                assert checkpoint.restore(folder / parallel, again, fingerprint="f") == ({"at": 80}, [])
                assert same(divided.gathered(again), divided.gathered(state))
        leave_a_full_disk(folder / "full", state)


def leave_a_full_disk(folder: Path, state: State) -> None:
    """Write three checkpoints; the disk of process 1 is full during the second."""
    checkpoint.save(folder, state, fingerprint="f", extra={"number": 1})
    state.images_seen += 10
    if rank() == 1:
        tiny.fill_disk()
    with pytest.raises(NotWrittenError) as error:
        checkpoint.save(folder, state, fingerprint="f", extra={"number": 2})
    tiny.empty_disk()
    assert ("File too large" if rank() == 1 else "another process could not write its part") in str(error.value)
    if rank() == 0:
        assert len(list(folder.iterdir())) == 3, "the first checkpoint and its two parts"
    together()
    checkpoint.save(folder, state, fingerprint="f", extra={"number": 3})


@pytest.fixture(scope="module")
def passed_on(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    """The folder of `pass_on`, and the state that was passed on."""
    folder = tmp_path_factory.mktemp("passed on")
    state = trained()
    checkpoint.save(folder / "one", state, fingerprint="f", extra={"at": 80})
    forked.run_together(2, pass_on, folder, folder=folder)
    return folder, state


@pytest.mark.parametrize("parallel", LAYOUTS)
def test_saved_by_one_restored_by_two_saved_by_two_and_restored_by_one_it_is_bitwise_the_same(
    passed_on: tuple[Path, State], parallel: Parallel
) -> None:
    folder, state = passed_on
    back = divided.begin("ddp")
    assert checkpoint.restore(folder / parallel, back, fingerprint="f") == ({"at": 80}, [])
    assert same(divided.gathered(back), divided.gathered(state))
    assert back.images_seen == state.images_seen


@pytest.mark.parametrize("parallel", LAYOUTS)
def test_each_process_writes_half_and_no_value_is_written_twice(
    passed_on: tuple[Path, State], parallel: Parallel
) -> None:
    folder, state = passed_on
    whole = sum(tensor.nbytes for tensor in divided.gathered(state).values())
    sizes = []
    for part in sorted((folder / parallel).glob("part-*")):
        sizes.append(sum(tensor.nbytes for tensor in load_file(part).values()))
    assert sum(sizes) == whole
    assert max(sizes) < 0.52 * whole


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("parallel", LAYOUTS)
def test_torch_reads_the_parts_too(passed_on: tuple[Path, State], parallel: Parallel, tmp_path: Path) -> None:
    folder, state = passed_on
    for part in (folder / parallel).glob("part-*"):
        shutil.copy(part, tmp_path)
    expected = divided.gathered(state)
    read = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    dcp.load(read, storage_reader=dcp.HuggingFaceStorageReader(str(tmp_path)), no_dist=True)
    assert same(read, expected)


def test_a_full_disk_of_one_process_is_told_to_all_and_costs_one_checkpoint(passed_on: tuple[Path, State]) -> None:
    folder = passed_on[0] / "full"
    assert checkpoint.restore(folder, divided.begin("ddp"), fingerprint="f") == ({"number": 3}, [])
    assert len(checkpoint_folder.checkpoints(folder)) == 2
    assert len(list(folder.glob("part-*"))) == 4


def test_a_damaged_or_missing_part_costs_its_checkpoint_and_the_one_before_is_used(
    passed_on: tuple[Path, State], tmp_path: Path
) -> None:
    folder = shutil.copytree(passed_on[0] / "full", tmp_path / "folder")
    later = checkpoint_folder.header_of(checkpoint_folder.checkpoints(folder)[-1])["parts"]
    content = bytearray((folder / later[1]).read_bytes())
    content[-1] ^= 1
    (folder / later[1]).write_bytes(content)
    extra, refused = checkpoint.restore(folder, divided.begin("ddp"), fingerprint="f")
    assert extra == {"number": 1}
    assert f"in {later[1]}, its content has the hash" in refused[0]
    (folder / later[1]).unlink()
    assert checkpoint.restore(folder, divided.begin("ddp"), fingerprint="f")[0] == {"number": 1}
    checkpoint_folder.clear(folder, but=1)
    assert {path.name for path in folder.glob("part-*")} == {later[0]}, "those of other checkpoints are removed"
    checkpoint_folder.clear(folder)
    assert not folder.exists()


def test_a_part_that_is_listed_twice_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    name = "tensor"
    save_file({name: torch.ones(2)}, tmp_path / "second", checkpoint_file.offsets({name: (2,)}))
    with pytest.raises(ValueError, match="pieces of tensor are missing or overlap"):
        checkpoint_file.Pieces([tmp_path / "second"] * 2)


def test_parts_stay_while_the_checkpoint_that_may_list_them_cannot_be_read(
    passed_on: tuple[Path, State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(passed_on[0] / "full", tmp_path / "folder")
    parts = set(folder.glob("part-*"))

    def fails(path: Path) -> dict[str, str]:
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_file, "header_of", fails)
        checkpoint_folder.remove_leftovers(folder)
    assert set(folder.glob("part-*")) == parts
    assert checkpoint.restore(folder, divided.begin("ddp"), fingerprint="f") == ({"number": 3}, [])


def save_and_lose(folder: Path, lost: int) -> None:
    """As one of two processes: write a checkpoint, then another one in which a process is killed at its flush."""
    checkpoint_writer._PATIENCE_SECONDS = 0.2
    with joined(divided.PARAMS.runtime):
        state = divided.begin("fsdp")
        checkpoint.save(folder, state, fingerprint="f", extra={"at": 0})
        together()
        state.images_seen = 10
        if rank() == lost:
            os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        writer = Writer(folder, fingerprint="f")
        writer.begin(state, extra={"at": 10})
        with pytest.raises(NotWrittenError, match="another process could not write its part"):
            writer.finish(together=False)
        os._exit(0)  # leaving the group needs the lost process


@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_killed_while_it_writes_costs_no_earlier_checkpoint(lost: int, tmp_path: Path) -> None:
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", STORE_VARIABLE: str(tmp_path / "store")}
    folder = tmp_path / "checkpoints"
    processes = [
        forked.start(
            save_and_lose, folder, lost, log=tmp_path / f"log-{number}",
            environment=os.environ | common | dict.fromkeys(("RANK", "LOCAL_RANK"), str(number)),
        )
        for number in range(2)
    ]  # fmt: skip
    for process in processes:
        process.join()
    assert processes[lost].exitcode == -signal.SIGKILL, (tmp_path / f"log-{lost}").read_text()
    assert len(checkpoint_folder.checkpoints(folder)) == 1
    assert len(list(folder.iterdir())) > 3, "a part or half of one"
    state = divided.begin("ddp")
    assert checkpoint.restore(folder, state, fingerprint="f") == ({"at": 0}, [])
    assert len(list(folder.iterdir())) == 3


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Files are written only after the returned function is called."""
    event, write = threading.Event(), checkpoint_writer.checkpoint_file.write

    def write_later(*arguments: object) -> Path:
        event.wait(60)
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint_writer.checkpoint_file, "write", write_later)
    return event.set


def test_a_checkpoint_has_the_state_of_when_it_was_begun_however_late_it_is_written(
    tmp_path: Path, held: Callable[[], None]
) -> None:
    state, extra = trained(), {"curve": [1]}
    expected = divided.gathered(state)
    writer = Writer(tmp_path, fingerprint="f")
    writer.begin(state, extra=extra)
    extra["curve"].append(2)
    longer = divided.dataclasses.replace(divided.SETTINGS, images=divided.SETTINGS.images + divided.BATCH)
    divided.run(state, device_batch=None, settings=longer)
    assert not same(divided.gathered(state), expected)
    assert checkpoint_folder.checkpoints(tmp_path) == []
    held()
    writer.finish()
    restored = divided.begin("ddp")
    assert checkpoint.restore(tmp_path, restored, fingerprint="f") == ({"curve": [1]}, [])
    assert same(divided.gathered(restored), expected)
    copies = [tensor.data_ptr() for tensor in writer._snapshot.tensors.values()]
    writer.begin(state, extra={})
    writer.finish()
    assert [tensor.data_ptr() for tensor in writer._snapshot.tensors.values()] == copies, "the memory is used again"


def lose_the_other(folder: Path) -> None:
    """As one of two processes: wait for a checkpoint while process 1 is killed before its part is written."""
    checkpoint_writer._PATIENCE_SECONDS = 0.2
    with joined(divided.PARAMS.runtime):
        writer = Writer(folder, fingerprint="f")
        if rank() == 1:
            os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        writer.begin(divided.begin("ddp"), extra={})
        with pytest.raises(RuntimeError):
            writer.finish()
        assert writer._thread is not None
        writer._thread.join(HANG_SECONDS)
        os._exit(3 if writer._thread.is_alive() else 0)  # leaving the group needs the lost process


def test_a_process_that_waits_for_one_that_is_lost_can_end(tmp_path: Path) -> None:
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", STORE_VARIABLE: str(tmp_path / "store")}
    processes = [
        forked.start(
            lose_the_other, tmp_path / "checkpoints", log=tmp_path / f"log-{number}",
            environment=os.environ | common | dict.fromkeys(("RANK", "LOCAL_RANK"), str(number)),
        )
        for number in range(2)
    ]  # fmt: skip
    for process in processes:
        process.join()
    assert processes[0].exitcode == 0, (tmp_path / "log-0").read_text()
