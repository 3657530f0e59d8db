"""Only the network and the data know what a condition is: loop, guidance and samplers pass it on unchanged."""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddpm.diffusion import objectives
from ddpm.diffusion.schedules import make_schedule
from ddpm.networks.conditioned import ConditionedNetwork
from ddpm.networks.unet import UNet
from ddpm.params import load as load_params
from ddpm.sampling import samplers
from ddpm.sampling.grids import uniform_grid
from ddpm.sampling.guidance import classifier_free
from ddpm.training.batches import Batches
from ddpm.training.loop import State, new_state, train
from ddpm.training.methods.diffusion import Diffusion
from ddpm.training.times import make_times

CPU = torch.device("cpu")
PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
OBJECTIVE = dataclasses.replace(PARAMS.objective, target="x_0", weight="simple", learned_variance=False, bounded=False)
PROCESS = make_schedule("cosine", 50)
LENGTH = 6
DIRECTIONS = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
LOUD = np.where(DIRECTIONS[:, :1] > 0, 200, 50).astype(np.uint8)
SIGNALS = np.broadcast_to(LOUD[:, :, None], (400, 1, LENGTH)).copy()
"""[N, C, length]: each signal is constant, with an amplitude that depends on its direction, a vector."""
SMALL = dict(width=8, multipliers=(1, 2), blocks=1, attention=(), head_channels=8, dropout=0.0)


class OfVector(ConditionedNetwork):
    """Predicts signals [N,1,LENGTH], conditioned on a vector [N,3]."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Linear(3, 16)
        self.nothing = nn.Parameter(torch.zeros(16))
        self.layers = nn.Sequential(nn.Linear(LENGTH + 17, 64), nn.SiLU(), nn.Linear(64, LENGTH))

    def hide(self, vectors: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        return vectors, where

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: Tensor | tuple[Tensor, Tensor] | None = None,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        told = self.nothing.expand(len(x), -1)
        if condition is not None:
            vectors, hidden = condition if isinstance(condition, tuple) else self.hide(condition, t < 0)
            told = torch.where(hidden[:, None], told, self.vector(vectors).tanh())
        return self.layers(torch.cat([x.flatten(1), told, t[:, None] / 1000], dim=1)).view_as(x)


def trained(*, label_dropout: float, steps: int) -> tuple[State, list[float]]:
    settings = dataclasses.replace(
        PARAMS.train,
        images=64 * steps,
        batch_size=64,
        optimizer="adamw",
        lr=0.01,
        warmup_images=64,
        decay_images=64,
        ema_halflife_images=200,
        weight_decay=0.0,
        flip=False,
        label_dropout=label_dropout,
        time_sampling="uniform",
    )
    torch.manual_seed(0)
    state = new_state(OfVector(), settings=settings)
    batches = Batches(SIGNALS, DIRECTIONS, batch_size=64, seed=0, flip=False, device=CPU)
    steps_of_it = train(
        state,
        batches,
        method=Diffusion(PROCESS, make_times(PROCESS, settings, memory=state.times, device=CPU), OBJECTIVE),
        settings=settings,
        device=CPU,
        precision="float32",
    )
    return state, [step.loss for step in steps_of_it]


def drawn(network: ConditionedNetwork, vectors: Tensor | None, *, scale: float) -> Tensor:
    """Return the means of eight signals, sampled by DDIM with guidance."""

    def denoise(x_t: Tensor, t: Tensor, condition: object) -> objectives.Estimate:
        return objectives.estimate(OBJECTIVE, lambda x, c: network(x, c, condition), PROCESS, x_t, t)

    guided = partial(classifier_free(denoise, scale=scale), condition=vectors)
    x_T = torch.randn(8, 1, LENGTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        *_, last = samplers.ddim(
            lambda x_t, t: guided(x_t, t), PROCESS, x_T, uniform_grid(50, 10), lambda: torch.zeros(()), eta=0.0
        )
    return last.x_t.mean(dim=(1, 2))


def test_a_network_of_vectors_and_signals_trains_by_the_same_loop_and_is_guided_by_the_same_samplers() -> None:
    state, losses = trained(label_dropout=0.2, steps=250)
    assert np.mean(losses[-30:]) < 0.3 * np.mean(losses[:10])
    network = state.ema.network
    loud, soft = torch.tensor([[1.0, 0, 0]]).expand(8, 3), torch.tensor([[-1.0, 0, 0]]).expand(8, 3)
    assert (drawn(network, loud, scale=1.0) - (200 / 127.5 - 1)).abs().max() < 0.2
    assert (drawn(network, soft, scale=1.0) - (50 / 127.5 - 1)).abs().max() < 0.2
    assert (drawn(network, loud, scale=3.0) - drawn(network, soft, scale=3.0)).min() > 0.8
    freely = drawn(network, None, scale=3.0)  # nothing to guide to: some are loud, some are soft
    assert float(freely.max() - freely.min()) > 0.8
    assert torch.allclose(drawn(network, loud, scale=0.0), freely, atol=1e-5)


@pytest.mark.parametrize(
    ("share", "stays", "moves"), [(1.0, "vector.weight", "nothing"), (0.0, "nothing", "vector.weight")]
)
def test_the_loop_hides_the_condition_as_often_as_it_is_told(share: float, stays: str, moves: str) -> None:
    torch.manual_seed(0)
    before = OfVector().state_dict()
    after = trained(label_dropout=share, steps=3)[0].network.state_dict()
    assert torch.equal(after[stays], before[stays])
    assert not torch.equal(after[moves], before[moves])


@pytest.mark.parametrize("kind", ["labels", "pictures", "vectors"])
def test_hidden_is_the_same_as_never_given_and_leaves_the_others_alone(kind: str) -> None:
    torch.manual_seed(0)
    if kind == "labels":
        network, x, condition = (
            UNet(channels=1, size=8, classes=3, **SMALL),
            torch.randn(4, 1, 8, 8),
            torch.tensor([0, 1, 2, 1]),
        )
    elif kind == "pictures":
        network, x, condition = (
            UNet(channels=1, size=8, classes=0, picture=3, **SMALL),
            torch.randn(4, 1, 8, 8),
            torch.randn(4, 3, 8, 8),
        )
    else:
        network, x, condition = OfVector(), torch.randn(4, 1, LENGTH), torch.randn(4, 3)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    network.eval()
    t, where = torch.full((4,), 300.0), torch.tensor([True, False, True, False])
    with torch.no_grad():
        hidden, given, nothing = network(x, t, network.hide(condition, where)), network(x, t, condition), network(x, t)
    assert torch.equal(hidden[where], nothing[where])
    assert torch.equal(hidden[~where], given[~where])
    assert (given - nothing).abs().amax(dim=tuple(range(1, x.ndim))).min() > 1e-3
