"""A VAE, a GAN and an autoencoder train in two processes as in one: R1 is differentiated twice inside of DDP."""

import json
from pathlib import Path

import divided_methods
import forked
import pytest


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    forked.run_together(2, divided_methods.in_processes, tmp_path, folder=tmp_path)
    one, other = (json.loads((tmp_path / f"numbers-{rank}.json").read_text()) for rank in range(2))
    assert one == other
    for name in divided_methods.NAMES:
        for divided, alone in zip(one[name], divided_methods.numbers(name), strict=True):
            assert divided == pytest.approx(alone, rel=2e-2, abs=1e-2), name
