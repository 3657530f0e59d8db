"""Muon in several processes: each orthogonalises the matrices that it owns, and all get the same bits as one alone."""

import json
from pathlib import Path

import forked
import pytest
import torch
from divided import PARAMS
from safetensors.torch import load_file, save_file

from ddpm.compute.processes import joined, rank
from ddpm.networks.unet import UNet
from ddpm.training import muon

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def stepped(folder: Path, dtype: str) -> None:
    """Take three steps of Muon with fixed gradients; write the weights and how many matrices this process computed."""
    torch.manual_seed(0)
    network = UNet(
        channels=1, size=8, classes=3, width=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8, dropout=0
    )
    first_and_last = [network.conv_in, network.conv_out]
    optimizer = muon.Muon(network, first_and_last=first_and_last, dtype=DTYPES[dtype], lr=0.01, weight_decay=0.1)
    counts, orthogonal = [0], muon.orthogonal

    def counted(matrices: torch.Tensor) -> torch.Tensor:
        counts[0] += len(matrices)
        return orthogonal(matrices)

    muon.orthogonal = counted
    for _ in range(3):
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape)
        optimizer.step()
    save_file(network.state_dict(), folder / f"{dtype}-{rank()}.safetensors")
    (folder / f"{dtype}-{rank()}.json").write_text(json.dumps(counts[0]))


def stepped_together(folder: Path) -> None:
    with joined(PARAMS.runtime):
        for dtype in DTYPES:
            stepped(folder, dtype)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of one process alone, and of two together."""
    alone, together = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")
    forked.run_together(1, stepped_together, alone, folder=alone)
    forked.run_together(2, stepped_together, together, folder=together)
    return alone, together


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_weights_are_bitwise_those_of_one_process(folders: tuple[Path, Path], dtype: str) -> None:
    alone, together = folders
    expected = load_file(alone / f"{dtype}-0.safetensors")
    for n in (0, 1):
        weights = load_file(together / f"{dtype}-{n}.safetensors")
        assert all(torch.equal(weights[name], value) for name, value in expected.items())


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_process_orthogonalises_a_part_of_the_matrices(folders: tuple[Path, Path], dtype: str) -> None:
    alone, together = folders
    all_of_them = json.loads((alone / f"{dtype}-0.json").read_text())
    own = [json.loads((together / f"{dtype}-{n}.json").read_text()) for n in (0, 1)]
    assert sum(own) == all_of_them
    assert min(own) > all_of_them // 4
