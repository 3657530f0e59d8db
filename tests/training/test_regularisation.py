"""Weight decay shrinks only weight matrices and kernels; dropout acts before the second convolution, in training."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from ddpm.networks.blocks import ResidualBlock, group_norm
from ddpm.networks.unet import UNet
from ddpm.params import load as load_params
from ddpm.training.loop import new_state

TRAIN = load_params(Path(__file__).parents[2] / "params.yaml").train
ARCHITECTURE: dict[str, Any] = dict(
    channels=1, size=8, classes=3, width=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8, dropout=0.5
)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_without_gradients_shrinks_matrices_and_kernels_and_nothing_else(optimizer: Any) -> None:
    network = UNet(**ARCHITECTURE)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    settings = dataclasses.replace(TRAIN, optimizer=optimizer, lr=0.1, weight_decay=0.5)
    new_state(network, settings=settings).optimizer.step()
    for name, parameter in network.named_parameters():
        decays = parameter.ndim >= 2 and name != "label.weight"
        assert torch.allclose(parameter, before[name] * (0.95 if decays else 1), rtol=1e-6), name


def test_dropout_of_everything_leaves_the_input_and_the_bias_of_the_second_convolution() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(
        8, 8, c_emb=16, dropout=1.0, embedding="scale_shift", norm=lambda c: group_norm(c, groups=None, eps=1e-5)
    )
    torch.nn.init.normal_(block.conv2.weight)
    x, emb = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    assert torch.allclose(block(x, emb), x + block.conv2.bias[:, None, None])  # type: ignore[index]
    assert float((block.eval()(x, emb) - x).detach().abs().max()) > 0.1


def test_the_averaged_network_has_its_dropout_off_while_the_other_is_trained() -> None:
    state = new_state(UNet(**ARCHITECTURE), settings=TRAIN)
    state.network.train()
    for module in (state.ema.network, *state.ema.network.modules()):
        assert not module.training
