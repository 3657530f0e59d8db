"""Checkpoint files that are damaged, foreign or half written, full disks, and kills during a write."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_training as tiny
import torch
from forked import PROCESSES

from ddpm.model_spec import build_network
from ddpm.training import checkpoint, checkpoint_file, checkpoint_folder
from ddpm.training.checkpoint_writer import NotWrittenError
from ddpm.training.loop import State, new_state
from ddpm.training.state_pieces import tensors_of


def fresh(**network: object) -> State:
    torch.manual_seed(0)
    spec = replace(tiny.SPEC, network=replace(tiny.SPEC.network, **network))  # type: ignore[arg-type]
    return new_state(build_network(spec), settings=tiny.SETTINGS)


def stepped(state: State, steps: int = 1) -> State:
    """A state with moments in the optimizer and with other weights."""
    torch.manual_seed(state.images_seen)
    for _ in range(steps):
        for parameter in state.network.parameters():
            parameter.grad = torch.randn_like(parameter)
        state.optimizer.step()
        state.images_seen += 16
        state.ema.update(state.network, images_seen=state.images_seen, batch_size=16, skipped=torch.tensor(False))
    return state


def everything(state: State) -> dict[str, torch.Tensor]:
    numbers = {"images_seen": torch.tensor(state.images_seen), "nonfinite": state.nonfinite_steps}
    return {name: tensor.clone() for name, tensor in (tensors_of(state) | numbers).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """A folder with checkpoints at 16 and 32 images: the folder, the later file, and the earlier state."""
    state = stepped(fresh())
    earlier = everything(state)
    checkpoint.save(tmp_path, state, fingerprint="f", extra={"at": 16})
    later = checkpoint.save(tmp_path, stepped(state), fingerprint="f", extra={"at": 32})
    return tmp_path, later, earlier


def test_a_restored_state_is_the_saved_one_bit_by_bit(tmp_path: Path) -> None:
    state = stepped(fresh(), 3)
    state.nonfinite_steps, state.times = torch.tensor(2), {"losses": torch.randn(5, 10), "seen": torch.arange(5)}
    checkpoint.save(tmp_path, state, fingerprint="f", extra={"curve": [0.1, None]})
    other = fresh()
    assert checkpoint.restore(tmp_path, other, fingerprint="f") == ({"curve": [0.1, None]}, [])
    assert same(everything(other), everything(state))


def require_the_earlier(folder: Path, earlier: dict[str, torch.Tensor], *, says: str) -> None:
    state = fresh()
    extra, refused = checkpoint.restore(folder, state, fingerprint="f")
    assert extra == {"at": 16}
    assert same(everything(state), earlier)
    assert len(refused) == 1
    assert says in refused[0]


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 500, -1000, -1])
def test_a_cut_off_checkpoint_is_refused_and_the_one_before_is_used(
    kept: int, two: tuple[Path, Path, dict[str, torch.Tensor]]
) -> None:
    folder, later, earlier = two
    later.write_bytes(later.read_bytes()[:kept])
    require_the_earlier(folder, earlier, says="it is damaged or was changed")


def test_a_single_flipped_bit_is_noticed_wherever_it_is(two: tuple[Path, Path, dict[str, torch.Tensor]]) -> None:
    folder, later, earlier = two
    whole = later.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    draw = random.Random(0)
    places = [0, 7, 8, header - 1, header, len(whole) - 1]
    places += [draw.randrange(header) for _ in range(60)] + [draw.randrange(header, len(whole)) for _ in range(60)]
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        later.write_bytes(flipped)
        with pytest.raises(ValueError, match="it is damaged or was changed"):
            checkpoint._open(later, "f")
    require_the_earlier(folder, earlier, says="it is damaged or was changed")


@pytest.mark.parametrize(
    "odd",
    [
        {"parts": ["../outside.safetensors"]},
        {"parts": ["", "a\0b"]},
        {"parts": ["part\n\ud800\x1b[31m.safetensors"]},
        {"parts": 5},
        {"images_seen": float("inf")},
    ],
)
def test_odd_words_of_a_header_are_one_printable_line_and_nothing_outside_the_folder_is_read(
    odd: dict[str, object], two: tuple[Path, Path, dict[str, torch.Tensor]]
) -> None:
    folder, later, earlier = two
    (folder.parent / "outside.safetensors").write_text("outside")
    header = checkpoint_folder.header_of(later) | {"parts": []} | odd
    later.unlink()
    checkpoint_file.write(folder, later.name.rpartition("-")[0], {}, {checkpoint_folder.FORMAT: json.dumps(header)})
    refused = checkpoint.restore(folder, fresh(), fingerprint="f")[1]
    assert refused[0].isprintable()
    assert "outside" not in refused[0] or str(folder / "outside.safetensors") in refused[0]
    require_the_earlier(folder, earlier, says="was refused")


def renamed_by_content(path: Path) -> Path:
    """Write a file whose name and content agree as in a checkpoint."""
    return path.rename(path.with_name(f"checkpoint-000000000099-{checkpoint_file.digest(path)}.safetensors"))


def test_a_foreign_file_is_refused_with_what_it_is(two: tuple[Path, Path, dict[str, torch.Tensor]]) -> None:
    from safetensors.torch import save_file

    folder, later, earlier = two
    later.unlink()
    save_file({"a": torch.zeros(3)}, folder / "other")
    other = renamed_by_content(folder / "other")
    require_the_earlier(folder, earlier, says="another version or program wrote it")
    other.unlink()
    (folder / "other").write_bytes(b"no safetensors at all" * 9)
    renamed_by_content(folder / "other")
    require_the_earlier(folder, earlier, says="was refused (Error while deserializing header")


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ({"width": 16}, "network.time.0.weight is torch.float32 [64, 16], expected torch.float32 [32, 8]"),
        ({"attention": []}, "but not in both"),
    ],
)
def test_a_checkpoint_of_another_network_leaves_no_trace_in_the_state(
    network: dict[str, object], says: str, tmp_path: Path
) -> None:
    checkpoint.save(tmp_path, stepped(fresh(**network)), fingerprint="f", extra={})
    state = stepped(fresh())
    before = everything(state)
    extra, refused = checkpoint.restore(tmp_path, state, fingerprint="f")
    assert extra is None
    assert says in refused[0]
    assert same(everything(state), before)


def test_what_fits_the_network_but_not_the_average_or_the_optimizer_leaves_no_trace_either(tmp_path: Path) -> None:
    odd_average, odd_moments = stepped(fresh()), stepped(fresh(), 2)
    odd_average.ema = fresh(width=16).ema
    first = next(iter(odd_moments.network.parameters()))
    odd_moments.optimizer.state[first]["exp_avg"] = torch.zeros(1)
    for state in (odd_average, odd_moments):
        checkpoint.save(tmp_path, state, fingerprint="f", extra={})
    state = fresh()
    before = everything(state)
    extra, refused = checkpoint.restore(tmp_path, state, fingerprint="f")
    assert extra is None
    assert "optimizer.0 has the shape [1]" in refused[0]
    assert "ema.time.0.weight is" in refused[1]
    assert same(everything(state), before)


def test_a_position_has_one_checkpoint_however_often_it_is_saved(tmp_path: Path) -> None:
    state = stepped(fresh())
    checkpoint.save(tmp_path, state, fingerprint="f", extra={"run": 1})
    checkpoint.save(tmp_path, stepped(state), fingerprint="f", extra={"run": 1})
    last = checkpoint.save(tmp_path, state, fingerprint="f", extra={"run": 2})
    assert len(checkpoint_folder.checkpoints(tmp_path)) == 2
    assert checkpoint_folder.checkpoints(tmp_path)[-1] == last
    assert checkpoint.restore(tmp_path, fresh(), fingerprint="f")[0] == {"run": 2}


class SmallDisk:
    """A folder on a disk that can be filled: a tmpfs if one can be mounted, else a limit on this process's files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
        found = sys.platform == "linux" and shutil.which("mount") is not None
        self.mounted = found and subprocess.run(mount, capture_output=True).returncode == 0

    def fill(self) -> None:
        if not self.mounted:
            return tiny.fill_disk()
        with open(self.folder / "filler", "wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def empty(self) -> None:
        if not self.mounted:
            return tiny.empty_disk()
        (self.folder / "filler").unlink(missing_ok=True)

    def remove(self) -> None:
        self.empty()
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    disk.remove()


def test_a_full_disk_costs_no_earlier_checkpoint_and_leaves_nothing_half_written(small_disk: SmallDisk) -> None:
    folder, state = small_disk.folder / "state", stepped(fresh())
    first = checkpoint.save(folder, state, fingerprint="f", extra={})
    small_disk.fill()
    with pytest.raises(NotWrittenError, match=r"No space left on device|File too large"):
        checkpoint.save(folder, stepped(state), fingerprint="f", extra={})
    assert list(folder.iterdir()) == [first]
    small_disk.empty()
    second = checkpoint.save(folder, state, fingerprint="f", extra={})
    assert checkpoint_folder.checkpoints(folder) == [first, second]


def save_and_die(folder: Path, event: int) -> None:
    """Save at 16 and at 32 images; SIGKILL comes at the given audited file operation of the second save."""
    state = stepped(fresh())
    checkpoint.save(folder, state, fingerprint="f", extra={"at": 16})
    stepped(state)
    seen = 0

    def watch(name: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if name in ("open", "os.rename", "os.remove", "os.listdir", "os.scandir") and str(folder) in str(arguments[0]):
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    checkpoint.save(folder, state, fingerprint="f", extra={"at": 32})


@pytest.mark.slow
def test_a_training_killed_at_any_file_operation_of_a_save_has_the_old_checkpoint_or_the_new(tmp_path: Path) -> None:
    found = []
    for event in range(1, 20):
        folder = tmp_path / str(event)
        process = PROCESSES.Process(target=save_and_die, args=(folder, event))
        process.start()
        process.join()
        state = fresh()
        extra, refused = checkpoint.restore(folder, state, fingerprint="f")
        assert refused == []
        assert extra == {"at": state.images_seen}
        assert not [path.name for path in folder.iterdir() if path not in checkpoint_folder.checkpoints(folder)]
        found.append(state.images_seen)
        if process.exitcode == 0:
            break
    assert process.exitcode == 0, "the save has more operations than were tried"
    assert found == sorted(found)
    assert found.count(16) >= 3, "before and after the flush, and before the rename"
    assert found.count(32) >= 3, "before the names are flushed, before the clean-up, and undisturbed"


def save_much(folder: Path) -> None:
    """Save, then save 4 MB, of which the kernel lets 2 MB be written before it kills the process."""
    state = fresh()
    checkpoint.save(folder, state, fingerprint="f", extra={})
    state.times = {"much": torch.zeros(1_000_000)}
    state.images_seen = 16
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
    checkpoint.save(folder, state, fingerprint="f", extra={})


def test_a_write_killed_half_way_leaves_the_checkpoint_before_and_is_cleaned_up(tmp_path: Path) -> None:
    process = PROCESSES.Process(target=save_much, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGXFSZ
    left = [path for path in tmp_path.iterdir() if path not in checkpoint_folder.checkpoints(tmp_path)]
    assert left, "half a file"
    state = fresh()
    assert checkpoint.restore(tmp_path, state, fingerprint="f") == ({}, [])
    assert state.images_seen == 0
    assert not any(path.exists() for path in left)
