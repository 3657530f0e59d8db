"""The claims about a GPU hold on the CPU, too: so a claim that is written wrongly fails on a machine without a GPU."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import claims
import pytest
import torch

from ddpm.sampling.catalogue import SAMPLERS

CPU = torch.device("cpu")


@pytest.mark.parametrize("settings", claims.WAITING.values(), ids=claims.WAITING)
def test_the_steps_that_a_gpu_must_not_wait_for_can_be_taken(settings: dict[str, Any], tmp_path: Path) -> None:
    claims.step_without_waiting(tmp_path, CPU, resident=False, **settings)


def test_random_numbers_are_the_same_in_every_layout() -> None:
    with claims.same_numbers():
        drawn = []
        for layout in (torch.contiguous_format, torch.channels_last):
            torch.manual_seed(0)
            drawn.append(torch.randn_like(torch.empty(2, 3, 4, 4, memory_format=layout)))
    assert torch.equal(*drawn)
    assert not drawn[1].is_contiguous()


def test_bf16_and_the_other_layout_change_the_losses_by_rounding_only(tmp_path: Path) -> None:
    expected = claims.losses(tmp_path, CPU)
    last = claims.losses(tmp_path, CPU, layout=torch.channels_last)
    assert last == pytest.approx(expected, rel=1e-4)
    half = claims.losses(tmp_path, CPU, precision="bf16")
    assert half == pytest.approx(expected, rel=3e-2)
    assert half != pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(optimizer: str, tmp_path: Path) -> None:
    claims.skip_a_step_that_is_not_finite(tmp_path, CPU, optimizer=optimizer)


def test_a_training_that_was_stopped_continues_bitwise(tmp_path: Path) -> None:
    settings = replace(claims.tiny.SETTINGS, images=16 * 24)
    claims.continue_bitwise(tmp_path, CPU, settings=settings)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_seed_gives_the_same_images(sampler: str, tiny_model: Callable[..., str], tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    tiny_model(model)
    images = claims.sampled(model, CPU, sampler)
    claims.require_alike(images, claims.sampled(model, CPU, sampler))
    with pytest.raises(AssertionError):
        claims.require_alike(images, images.flip(0))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_one_process_goes_through_the_code_of_several(
    parallel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = claims.undivided_losses(tmp_path, CPU)
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DDPM_WORKERS_STORE", str(tmp_path / "store"))
    claims.divided_losses(tmp_path, CPU, parallel)
    found = json.loads((tmp_path / "losses.json").read_text())
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-4)
    assert found["weights"] == pytest.approx(expected["weights"], rel=1e-4)


def test_memory_that_runs_out_is_one_sentence(tmp_path: Path) -> None:
    claims.run_out_of_memory(tmp_path, CPU)


def test_features_are_computed_without_tf32() -> None:
    assert torch.equal(claims.features(CPU), claims.features(CPU))
