"""A training divided over accumulation steps and processes equals that of one process up to rounding."""

import json
from collections.abc import Callable
from pathlib import Path

import divided
import forked
import pytest
import torch
from torch import Tensor

from ddpm.compute import processes as stage_processes
from ddpm.errors import UserError
from ddpm.training import checkpoint, checkpoint_folder
from ddpm.training.checkpoint_file import Pieces
from ddpm.training.sharding import parts_of, shard

# Sums of float32 in another order differ by 1e-7 of their size; Adam divides each gradient by its own size, so where
# gradients nearly cancel, as at the layers that start as zeros, the weights differ by some 1e-4 after a few steps.
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of all divisions in divided.py."""
    folder = tmp_path_factory.mktemp("divisions")
    names = list(divided.DIVISIONS)
    for division in names[: divided.ALONE]:
        divided.checkpoint_of(division, folder)
    forked.run_together(2, divided.checkpoints_of, names[divided.ALONE :], folder, folder=folder)
    return folder


def read(folder: Path) -> tuple[dict[str, Tensor], list[float]]:
    (path,) = folder.glob("checkpoint-*.safetensors")
    header = checkpoint_folder.header_of(path)
    pieces = Pieces([folder / name for name in header["parts"]] or [path])
    return {name: pieces.read(name) for name in pieces.shapes}, header["extra"]["losses"]


@pytest.mark.parametrize("division", [name for name in divided.DIVISIONS if not name.startswith("whole")])
def test_a_divided_training_has_the_weights_average_and_optimizer_state_of_a_whole_one(
    folder: Path, division: str
) -> None:
    whole, losses = read(folder / ", ".join(["whole", *division.split(", ")[1:]]))
    other, other_losses = read(folder / division)
    assert other.keys() == whole.keys()
    assert {name.split(".")[0] for name in whole} == {"network", "ema", "optimizer", "times"}
    for name, value in whole.items():
        worst = (other[name] - value).abs().max()
        assert worst <= TOLERANCE * value.abs().max(), f"{name} differs by {worst}"
    assert other_losses == pytest.approx(losses, rel=1e-4)


def test_gradients_in_bf16_are_half_of_the_bytes_and_give_nearly_the_same_losses(tmp_path: Path) -> None:
    forked.run_together(2, divided.exchanged, tmp_path, folder=tmp_path)
    losses, sent, weights = json.loads((tmp_path / "exchanged-0.json").read_text())
    assert json.loads((tmp_path / "exchanged-1.json").read_text())[0] == losses
    assert sent == 2 * weights
    exact = losses.pop("ddp float32")
    for name, others in losses.items():
        assert others[0] == pytest.approx(exact[0], rel=1e-5), name  # no gradient was exchanged before
        assert others[1:] == pytest.approx(exact[1:], rel=1e-2), name
        assert others[1:] != exact[1:], name


@pytest.mark.slow
def test_of_a_sharded_network_each_stage_is_compiled_in_one_graph(tmp_path: Path) -> None:
    forked.run_together(2, divided.compiled, tmp_path, folder=tmp_path)
    (plain, compiled), graphs, stages = json.loads((tmp_path / "compiled-0.json").read_text())
    assert compiled == pytest.approx(plain, rel=1e-5)
    assert graphs == stages


@pytest.mark.slow
def test_two_machines_of_two_processes_have_half_of_the_network_in_each(tmp_path: Path) -> None:
    found = {}
    for parallel, precision in (("ddp", "float32"), ("hybrid", "float32"), ("fsdp", "bf16")):
        folder = tmp_path / parallel
        folder.mkdir()
        forked.run_together(4, divided.in_machines, folder, parallel, precision, folder=folder)
        answers = [json.loads((folder / f"{parallel}-{rank}.json").read_text()) for rank in range(4)]
        assert all(answer == answers[0] for answer in answers)
        found[parallel] = answers[0]
    assert [kept for _, _, kept in found.values()] == [1, 1 / 2, 1 / 4]
    assert found["hybrid"][0] == pytest.approx(found["ddp"][0], rel=1e-4)
    assert found["hybrid"][1] == pytest.approx(found["ddp"][1], rel=1e-3)
    # Weights were gathered in bf16, so every result is rounded, the first one too.
    assert found["fsdp"][0] == pytest.approx(found["ddp"][0], rel=2e-2)


def test_machines_with_different_numbers_of_processes_cannot_be_hybrid(
    stand_in_for: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_for(0, 5)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"5 processes are not a multiple of the 2 of this machine"):
        shard(torch.nn.Linear(1, 1), parallel="hybrid")


def test_the_random_numbers_of_a_step_do_not_depend_on_its_division() -> None:
    steps = {name: divided.run(divided.begin("ddp"), device_batch=size) for name, size in (("one", None), ("two", 4))}
    for one, two in zip(steps["one"][:4], steps["two"][:4], strict=True):  # later ones follow the losses
        assert torch.equal(one.t, two.t)
        assert torch.equal(one.weights, two.weights)


def test_a_checkpoint_of_two_processes_goes_on_in_one(folder: Path) -> None:
    state = divided.begin("ddp")
    extra, refused = checkpoint.restore(folder / "sharded", state, fingerprint="f")
    assert (refused, state.images_seen) == ([], divided.SETTINGS.images)
    assert extra is not None
    longer = divided.dataclasses.replace(divided.SETTINGS, images=divided.SETTINGS.images + divided.BATCH)
    (step,) = divided.run(state, device_batch=None, settings=longer)
    assert not step.skipped


@pytest.fixture
def stand_in_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Make this process believe that it is `rank` of `processes`."""

    def stand_in(rank: int, processes: int) -> None:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(processes))

    return stand_in


@pytest.mark.parametrize(
    ("batch", "processes", "device_batch"), [(128, 1, None), (128, 2, 32), (10, 3, 2), (7, 4, 2), (128, 3, 50)]
)
def test_the_parts_of_all_processes_make_the_batch_and_none_is_larger_than_a_device_takes(
    stand_in_for: Callable[[int, int], None], batch: int, processes: int, device_batch: int | None
) -> None:
    seen: list[int] = []
    counts = set()
    for rank in range(processes):
        stand_in_for(rank, processes)
        parts = parts_of(batch, device_batch=device_batch)
        counts.add(len(parts))
        for part in parts:
            assert 1 <= part.stop - part.start <= (device_batch or batch)
            seen.extend(range(part.start, part.stop))
    assert seen == list(range(batch))
    assert len(counts) == 1


def test_a_batch_too_small_for_the_processes_is_refused(stand_in_for: Callable[[int, int], None]) -> None:
    stand_in_for(0, 4)
    with pytest.raises(UserError, match=r"train\.batch_size is 3, which 4 processes .* cannot share"):
        parts_of(3, device_batch=None)


def test_a_rank_that_is_no_number_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"^the environment variable RANK is 'x', expected a whole number; unset it"):
        stage_processes.rank()
