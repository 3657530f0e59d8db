"""The project computes on a GPU what it computes on a CPU, and never waits in a step. `make gpu` runs these tests."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import claims
import pytest
import torch

from ddpm.sampling.catalogue import SAMPLERS
from ddpm.training.sharding import Parallel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device on this machine"),
]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
SECONDS = 150
"""Time limit of a process that a test starts."""


def in_processes(claim: str, folder: Path, number: int = 1, **options: Any) -> None:
    """Call a claim of claims.CALLED_ALONE in new processes, which know of each other if the claim divides a training.

    A failure has the end of what the first failed process printed.
    """
    command = [sys.executable, claims.__file__, claim, str(folder), GPU.type, json.dumps(options)]
    common = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    if claim == "divided":
        common |= {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number), "DDPM_WORKERS_STORE": f"{folder}/store"}
    workers = []
    for rank in range(number):
        ranks = dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)) if claim == "divided" else {}
        output = subprocess.PIPE if rank == 0 else subprocess.DEVNULL
        workers.append(
            subprocess.Popen(command, env=common | ranks, stdout=output, stderr=subprocess.STDOUT, text=True)
        )
    try:
        printed, _ = workers[0].communicate(timeout=SECONDS)
        ended = [worker.wait(timeout=SECONDS) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert ended == [0] * number, printed[-2000:]


@pytest.mark.parametrize("resident", [True, False], ids=["resident images", "images on the host"])
@pytest.mark.parametrize("settings", claims.WAITING.values(), ids=claims.WAITING)
def test_no_step_makes_the_host_wait(settings: dict[str, Any], resident: bool, tmp_path: Path) -> None:
    claims.step_without_waiting(tmp_path, GPU, resident=resident, **settings)


def test_no_compiled_step_makes_the_host_wait(tmp_path: Path) -> None:
    claims.step_without_waiting(tmp_path, GPU, resident=True, compile=True)


@pytest.mark.parametrize(
    ("precision", "compile", "layout", "tolerance"),
    [
        pytest.param("float32", False, None, 1e-4, id="float32"),
        pytest.param("float32", False, torch.contiguous_format, 1e-4, id="float32, contiguous"),
        pytest.param("float32", True, None, 1e-4, id="float32, compiled"),
        pytest.param("bf16", False, None, 3e-2, id="bf16, channels_last"),
        pytest.param("bf16", False, torch.contiguous_format, 3e-2, id="bf16, contiguous"),
        pytest.param("bf16", True, None, 3e-2, id="bf16, compiled"),
    ],
)
def test_the_losses_are_those_of_the_cpu(
    precision: Any, compile: bool, layout: torch.memory_format | None, tolerance: float, tmp_path: Path
) -> None:
    """bf16 has 8 bits, so each loss may differ by a few of 256 parts; the reference is float32 on the CPU."""
    expected = claims.losses(tmp_path / "cpu", CPU)
    found = claims.losses(tmp_path / "gpu", GPU, precision=precision, layout=layout, compile=compile)
    assert found == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(optimizer: str, tmp_path: Path) -> None:
    claims.skip_a_step_that_is_not_finite(tmp_path, GPU, optimizer=optimizer)


@pytest.mark.parametrize(
    "options",
    [{}, {"precision": "bf16"}, {"compile": True, "precision": "bf16"}],
    ids=["float32", "bf16", "bf16, compiled"],
)
def test_a_deterministic_training_that_was_stopped_continues_bitwise(options: dict[str, Any], tmp_path: Path) -> None:
    in_processes("continue", tmp_path, **options)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_seed_gives_the_images_of_the_cpu(sampler: str, tiny_model: Callable[..., str], tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    tiny_model(model)
    claims.require_alike(claims.sampled(model, GPU, sampler), claims.sampled(model, CPU, sampler))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_training_divided_by_nccl_has_the_losses_of_one_process(parallel: Parallel, tmp_path: Path) -> None:
    """On one GPU, one process exchanges with itself; on several, there is one process for each."""
    in_processes("divided", tmp_path, min(torch.cuda.device_count(), 8), parallel=parallel)
    expected = claims.undivided_losses(tmp_path, GPU)
    found = json.loads((tmp_path / "losses.json").read_text())
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-4)
    assert found["weights"] == pytest.approx(expected["weights"], rel=1e-4)


def test_memory_that_runs_out_is_one_sentence(tmp_path: Path) -> None:
    claims.run_out_of_memory(tmp_path, GPU)


def test_features_are_those_of_the_cpu_without_tf32() -> None:
    """TF32 would differ by some 5e-4 of the spread of the features."""
    expected = claims.features(CPU)
    assert float((claims.features(GPU) - expected).abs().max() / expected.std()) < 1e-4


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_training_is_compiled_once(precision: Any, tmp_path: Path) -> None:
    claims.compile_once(tmp_path, GPU, precision)
