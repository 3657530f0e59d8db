"""The benchmarks run to their end, with tiny numbers, and their tables say what was measured."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from waiting import HANG_SECONDS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(name: str, *arguments: object) -> None:
    command = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr


def tables(path: Path) -> list[list[dict[str, str]]]:
    """The Markdown tables of a file: per table a list of rows."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", path.read_text(encoding="utf-8"), re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.strip().splitlines()]
        found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return found


def number(cell: str) -> float:
    return float(cell.split()[0].replace(",", "").rstrip("%"))


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.slow
def test_preparing_a_folder_is_measured_again_and_with_more_images(tmp_path: Path) -> None:
    output = tmp_path / "preparation.md"
    run("preparation.py", "--images", 60, "--share", 0.1, "--sizes", 80, "--workers", 1, "--output", output)
    runs, sizes = tables(output)
    assert [row["images"] for row in runs] == ["60", "60", "66"]
    assert runs[0]["files read"] == "60"
    assert int(runs[2]["files read"]) >= 6
    assert all(number(row["processor seconds"]) > 0.1 for row in runs)
    assert all(number(row["peak memory, MB"]) > 20 for row in runs + sizes)
    assert [row["images"] for row in sizes] == ["80"]


@pytest.mark.usefixtures("benchmarks")
def test_a_repeated_image_is_another_file_with_the_same_pixels(tmp_path: Path) -> None:
    from PIL import Image
    from preparation import commented, draw_images

    draw_images(tmp_path, 1)
    (path,) = tmp_path.rglob("*.jpg")
    again = tmp_path / "again.jpg"
    again.write_bytes(commented(path.read_bytes(), 7))
    assert again.read_bytes() != path.read_bytes()
    np.testing.assert_array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(path)))


@pytest.mark.usefixtures("benchmarks")
def test_memory_is_counted_over_all_processes_below_one(tmp_path: Path) -> None:
    from preparation import tree_bytes

    hold = "import sys; held = b'x' * 60_000_000; print('ready', flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    assert 60_000_000 < tree_bytes(process.pid) < 200_000_000
    process.stdin.close()
    process.wait()


@pytest.mark.usefixtures("benchmarks")
def test_those_who_take_turns_go_in_both_orders() -> None:
    from common import ratios, spread, take_turns

    order: list[str] = []
    measures = {name: lambda name=name: order.append(name) or float(len(order)) for name in "abc"}
    results = take_turns(measures, rounds=2)
    assert "".join(order) == "abccba"
    assert results == {"a": [1, 6], "b": [2, 5], "c": [3, 4]}
    assert spread(ratios(results["c"], results["a"])) == "1.83 (0.67 to 3.00)"


@pytest.mark.slow
def test_training_is_compared_with_both_peers(tmp_path: Path) -> None:
    """Minutes, because each contender also trains alone, in a process that imports all it needs."""
    for peer in ("accelerate", "denoising_diffusion_pytorch"):
        pytest.importorskip(peer, reason="the peers are installed by `make bench-setup`")
    output = tmp_path / "training.md"
    run("training.py", "--network", "tiny", "--batch", 16, "--rounds", 2, "--steps", 1, "--output", output)
    contenders, peaks = tables(output)
    ours, diffusers, tricks, lucidrains = contenders
    assert ours["parameters"] == diffusers["parameters"] == tricks["parameters"]
    assert number(lucidrains["parameters"]) == pytest.approx(number(ours["parameters"]), rel=0.05)
    assert diffusers["GFLOP/image"] == tricks["GFLOP/image"]
    # Fewer by what convolutions on the small grid save.
    assert 0.85 * float(diffusers["GFLOP/image"]) < float(ours["GFLOP/image"]) <= float(diffusers["GFLOP/image"])
    assert all(number(row["images/s"]) > 0 and number(row["peak memory, MB"]) > 100 for row in contenders)
    assert [row["target"] for row in contenders] == ["", "2.0", "1.3", "2.0"]
    assert len(peaks) == 4


@pytest.mark.usefixtures("benchmarks")
def test_the_network_that_diffusers_describes_is_the_one_that_is_trained(tmp_path: Path) -> None:
    """At the loop's first steps, the weights move and the values of every step are collected."""
    import torch
    from contenders.same_network import OurSteps
    from training import flops_of, save_unet, saved_parameters, unet_config

    config = unet_config("tiny")
    save_unet(config, tmp_path)
    images = np.zeros((32, 1, 16, 16), np.uint8)
    ours = OurSteps(tmp_path, images, batch_size=4, device=torch.device("cpu"))
    assert sum(p.numel() for p in ours.network.parameters()) == saved_parameters(tmp_path)
    before = ours.network.conv_in.weight.detach().clone()
    ours.advance(2)
    steps, loss, *_ = ours.meter.sums()
    assert steps == 2
    assert loss > 0
    assert not torch.equal(before, ours.network.conv_in.weight)
    assert flops_of(ours, images.shape[1:], torch.device("cpu")) > 1e7


@pytest.mark.usefixtures("benchmarks")
def test_diffusers_computes_in_bf16_only_with_the_tricks(tmp_path: Path) -> None:
    """accelerate holds one precision for a process; the one made later must not change the one before."""
    pytest.importorskip("accelerate", reason="the peers are installed by `make bench-setup`")
    import torch
    from contenders.same_network import DiffusersSteps
    from training import save_unet, unet_config

    save_unet(unet_config("tiny"), tmp_path)
    images = np.zeros((32, 1, 16, 16), np.uint8)
    seen = []
    for tricks in (False, True):
        contender = DiffusersSteps(tmp_path, images, batch_size=4, device=torch.device("cpu"), tricks=tricks)
        contender.network.conv_in.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
        if not tricks:
            first = contender
    contender.advance(1)
    first.advance(1)
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.slow
def test_restoring_with_and_without_a_training_for_it_stands_in_one_table(tmp_path: Path) -> None:
    output = tmp_path / "restored.md"
    small = ("--seen", 1280, "--width", 8, "--judge-images", 2000, "--picture", tmp_path / "restored.png")
    run("conditioned_pictures.py", "--restored", 20, *small, "--output", output)
    [rows] = tables(output)
    assert [row["model"] for row in rows[:4]] == [
        "the picture itself",
        "not trained for it",
        "trained for it",
        "the held-out image",
    ]
    assert len(rows) == 3 * 4
    assert {number(row["PSNR, dB"]) for row in rows[3::4]} == {100.0}
    assert (tmp_path / "restored.png").exists()


@pytest.mark.slow
def test_a_cascade_is_measured_beside_one_model(tmp_path: Path) -> None:
    output = tmp_path / "cascade.md"
    small = ("--seen", 1280, "--width", 8, "--judge-images", 2000, "--drawn", 110)
    run("cascade.py", *small, "--output", output)
    [rows] = tables(output)
    assert [row["model"] for row in rows][-1] == "one model"
    assert all(number(row["FID"]) > 0 for row in rows)
