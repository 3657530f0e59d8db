"""A training of degraded pictures continues exactly, and divided over parts and processes it is the same training."""

import json
from dataclasses import replace
from pathlib import Path

import divided_pictures
import forked
import numpy as np
import pytest
import torch
from divided_pictures import SHORT, SPEC
from tiny_training import IMAGES, PARAMS

from ddpm.training import session


def begin(folder: Path, *, device_batch: int | None = None, seed: int = 0) -> session.Training:
    return session.begin(
        SPEC,
        IMAGES,
        None,
        data_hash="made up",
        code_hash="made up",
        settings=replace(SHORT, seed=seed),
        runtime=replace(PARAMS.runtime, progress=False, deterministic=True, device_batch=device_batch),
        device=torch.device("cpu"),
        precision="float32",
        state_folder=folder,
    )


def finished(training: session.Training) -> dict[str, torch.Tensor]:
    for _ in training.steps():
        pass
    return {name: tensor.clone() for name, tensor in training.average().state_dict().items()}


def test_a_training_that_was_stopped_continues_bit_for_bit(tmp_path: Path) -> None:
    whole = finished(begin(tmp_path / "whole"))
    stopped = begin(tmp_path / "stopped")
    for step in stopped.steps():
        if step.images_seen == 16 * 5:
            break
    stopped.save(wait=True)
    stopped.close()
    again = begin(tmp_path / "stopped")
    assert again.saved_images == 16 * 5
    found = finished(again)
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())


def test_parts_of_a_batch_give_the_same_training_up_to_rounding(tmp_path: Path) -> None:
    whole, parts = (finished(begin(tmp_path / str(n), device_batch=n)) for n in (None, 5))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-4)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    forked.run_together(2, divided_pictures.in_processes, tmp_path, folder=tmp_path)
    one, other = (json.loads((tmp_path / f"numbers-{rank}.json").read_text()) for rank in range(2))
    assert one == other
    assert np.array(one) == pytest.approx(np.array(divided_pictures.numbers()), rel=2e-2, abs=1e-2)
