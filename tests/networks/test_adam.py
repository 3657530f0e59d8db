"""Adam without torch's compiler is torch's Adam."""

import copy

import pytest
import torch
from torch import Tensor, nn

from ddpm.networks import adam


def steps(network: nn.Module, optimizer: torch.optim.Optimizer, n: int) -> list[Tensor]:
    """Weights after n steps on the same random images."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(n):
        optimizer.zero_grad()
        network(torch.randn(4, 3, generator=generator)).square().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in network.parameters()]


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("fused", [False, True])
def test_its_weights_are_bitwise_those_of_torchs_own(name: str, fused: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 2))
    other = copy.deepcopy(network)
    options = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1, "fused": fused}
    ours = steps(network, getattr(adam, name)(network.parameters(), **options), 20)
    theirs = steps(other, getattr(torch.optim, name)(other.parameters(), **options), 20)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_its_state_goes_on_from_a_state_of_torchs_own() -> None:
    network = nn.Linear(3, 2)
    theirs = torch.optim.AdamW(network.parameters(), lr=0.01, fused=True)
    steps(network, theirs, 5)
    twin = copy.deepcopy(network)
    ours = adam.AdamW(twin.parameters(), lr=0.5, fused=True)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(steps(twin, ours, 5), steps(network, theirs, 5), strict=True))


def test_a_schedule_moves_its_learning_rate() -> None:
    network = nn.Linear(3, 2)
    optimizer = adam.Adam(network.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    steps(network, optimizer, 1)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
