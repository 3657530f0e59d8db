"""Muon equals torch's Muon where torch has it, and the training loop uses it for the intended weights."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from ddpm.networks.unet import UNet
from ddpm.params import load as load_params
from ddpm.training.loop import new_state
from ddpm.training.muon import Muon, orthogonal

TRAIN = load_params(Path(__file__).parents[2] / "params.yaml").train


@pytest.mark.parametrize("shape", [(8, 8), (8, 40), (40, 8)])
def test_the_iteration_sets_all_singular_values_to_about_one_and_keeps_the_directions(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    matrix = u @ torch.diag(torch.linspace(0.1, 3, 8)) @ v
    (move, other) = orthogonal(torch.stack([matrix, 100 * matrix.flip(0)]))
    assert move.shape == shape
    assert torch.allclose(other, move.flip(0), atol=1e-5), "matrices do not see each other, and sizes do not count"
    values = u.mT @ move @ v.mT
    assert bool(((values.diagonal() > 0.6) & (values.diagonal() < 1.3)).all())
    assert float((values - torch.diag(values.diagonal())).abs().max()) < 1e-4


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_matrices_move_as_by_torchs_muon_and_biases_as_by_its_adamw(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = nn.Linear(*shape)
    theirs = copy.deepcopy(ours)
    adam = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}
    optimizer = Muon(ours, first_and_last=(), dtype=torch.bfloat16, **adam)
    others = (
        torch.optim.Muon([theirs.weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([theirs.bias], **adam | {"weight_decay": 0.0}),  # type: ignore[arg-type]
    )
    for step in range(10):
        x = torch.randn(4, shape[0], generator=torch.Generator().manual_seed(step))
        for network in (ours, theirs):
            network.zero_grad()
            network(x).pow(3).sum().backward()
        optimizer.step()
        for other in others:
            other.step()
        assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)
        assert torch.allclose(ours.bias, theirs.bias, atol=1e-6)


def test_of_the_u_net_all_matrices_but_the_first_the_last_and_the_label_embedding_are_orthogonalised() -> None:
    network = UNet(
        channels=1, size=8, classes=3, width=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8, dropout=0
    )
    optimizer = new_state(network, settings=dataclasses.replace(TRAIN, optimizer="muon")).optimizer
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    by_adam = {name for name, p in network.named_parameters() if "exp_avg_sq" in optimizer.state[p]}
    expected = {name for name, p in network.named_parameters() if p.ndim == 1}
    assert by_adam == expected | {"conv_in.weight", "conv_out.weight", "label.weight"}


def test_a_move_is_as_large_as_adams() -> None:
    conv = nn.Conv2d(16, 24, 3)
    before = conv.weight.detach().clone()
    optimizer = Muon(conv, first_and_last=(), dtype=torch.float32, lr=0.01)
    conv.weight.grad = 1e-6 * torch.randn(conv.weight.shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert float((conv.weight.detach() - before).square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.3)
