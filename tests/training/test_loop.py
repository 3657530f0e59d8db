"""The training loop, its data order, and the exactness of a training that was stopped and continued."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from ddpm.compute.hardware import Precision
from ddpm.diffusion.processes import Process, VarianceExploding, make_process
from ddpm.diffusion.schedules import make_continuous_schedule, make_schedule
from ddpm.diffusion.settings import Objective
from ddpm.errors import UserError
from ddpm.networks.unet import UNet
from ddpm.params import load as load_params
from ddpm.training import checkpoint, checkpoint_folder
from ddpm.training.batches import Batches
from ddpm.training.curves import Meter
from ddpm.training.loop import State, Step, learning_rate, new_state, train
from ddpm.training.methods.diffusion import Diffusion, quarters
from ddpm.training.methods.method import Drawn
from ddpm.training.settings import Train
from ddpm.training.times import HISTORY, Importance, Uniform, make_times

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (37, 1, 8, 8), dtype=np.uint8)
LABELS = np.arange(37) % 3
PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
SETTINGS = dataclasses.replace(
    PARAMS.train,
    images=16 * 12,
    batch_size=16,
    warmup_images=32,
    decay_images=64,
    ema_halflife_images=100,
    label_dropout=0.2,
)


def fresh(settings: Train = SETTINGS, precision: Precision = "float32") -> State:
    torch.manual_seed(0)
    architecture: dict = dict(width=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8, dropout=0.2)
    return new_state(UNet(channels=1, size=8, classes=3, **architecture), settings=settings, precision=precision)


def batches(settings: Train = SETTINGS, images: np.ndarray = IMAGES) -> Batches:
    return Batches(images, LABELS, batch_size=settings.batch_size, seed=settings.seed, flip=settings.flip, device=CPU)


def steps(  # type: ignore[no-untyped-def]
    state: State,
    settings: Train = SETTINGS,
    images: np.ndarray = IMAGES,
    objective: Objective = PARAMS.objective,
    T: int = 1000,
    precision: Precision = "float32",
):
    process = make_schedule("cosine", T)
    return train(
        state,
        batches(settings, images),
        method=Diffusion(process, make_times(process, settings, memory=state.times, device=CPU), objective),
        settings=settings,
        device=CPU,
        precision=precision,
    )


def same(a: State, b: State) -> bool:
    return all(
        torch.equal(p, q)
        for left, right in ((a.network, b.network), (a.ema.network, b.ema.network))
        for p, q in zip(left.parameters(), right.parameters(), strict=True)
    )


def test_flipping_mirrors_about_half_of_the_images() -> None:
    settings = dataclasses.replace(SETTINGS, flip=True, batch_size=400)
    flipped, plain = batches(settings).at(0)[0], batches(dataclasses.replace(settings, flip=False)).at(0)[0]
    mirrored = (flipped == plain.flip(-1)).all(dim=(1, 2, 3))
    untouched = (flipped == plain).all(dim=(1, 2, 3))
    assert bool((mirrored | untouched).all())
    assert 140 < int(mirrored.sum()) < 260


def test_training_lowers_the_loss() -> None:
    settings = dataclasses.replace(SETTINGS, images=16 * 80)
    constant = np.full_like(IMAGES, 200)
    losses = [step.loss for step in steps(fresh(settings), settings, constant)]
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:20])


@pytest.mark.parametrize(
    "precision", ["float32", "bf16"]
)  # the memory layout for bf16 differs from that of a checkpoint
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("cut", [1, 3, 11])
def test_a_training_stopped_and_restored_is_bitwise_the_one_that_was_not(
    cut: int, optimizer: Literal["adamw", "muon"], precision: Precision, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, optimizer=optimizer)
    undisturbed = fresh(settings, precision)
    for _ in steps(undisturbed, settings, precision=precision):
        pass

    stopped = fresh(settings, precision)
    for number, _ in enumerate(steps(stopped, settings, precision=precision), start=1):
        if number == cut:
            checkpoint.save(tmp_path, stopped, fingerprint="f", extra={"note": 7})
            break
    torch.manual_seed(123)  # random numbers that were generated before must not matter
    resumed = fresh(settings, precision)
    extra, refused = checkpoint.restore(tmp_path, resumed, fingerprint="f")
    assert extra == {"note": 7}
    assert refused == []
    assert resumed.images_seen == cut * 16
    for _ in steps(resumed, settings, precision=precision):
        pass
    assert same(resumed, undisturbed)


def test_a_torn_checkpoint_is_refused_with_its_reason_and_the_one_before_is_used(tmp_path: Path) -> None:
    state = fresh()
    for step in steps(state):
        if step.images_seen in (16, 32):
            last = checkpoint.save(tmp_path, state, fingerprint="f", extra={})
    last.write_bytes(last.read_bytes()[:-100])
    restored = fresh()
    extra, refused = checkpoint.restore(tmp_path, restored, fingerprint="f")
    assert extra == {}
    assert restored.images_seen == 16
    assert len(refused) == 1
    assert last.name in refused[0]


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    state = fresh()
    checkpoint.save(tmp_path, state, fingerprint="other", extra={})
    extra, refused = checkpoint.restore(tmp_path, fresh(), fingerprint="mine")
    assert extra is None
    assert "other parameters, data or code" in refused[0]


def test_only_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    state = fresh()
    for _ in steps(state):
        checkpoint.save(tmp_path, state, fingerprint="f", extra={})
    assert checkpoint_folder.checkpoints(tmp_path) == sorted(tmp_path.iterdir())
    assert [path.name.split("-")[1] for path in sorted(tmp_path.iterdir())] == ["000000000176", "000000000192"]
    checkpoint_folder.clear(tmp_path)
    assert not tmp_path.exists()


def test_nonfinite_losses_are_skipped_counted_and_then_stop_the_training() -> None:
    settings = dataclasses.replace(SETTINGS, max_nonfinite_steps=3)
    state = fresh(settings)
    before = {name: p.clone() for name, p in state.network.named_parameters() if name != "conv_in.weight"}
    with torch.no_grad():
        state.network.conv_in.weight[0, 0, 0, 0] = float("inf")
    seen = []
    with pytest.raises(UserError, match=r"not finite 4 steps in a row.*train\.lr"):
        seen.extend(steps(state, settings))
    assert state.nonfinite_steps == 4
    after = dict(state.network.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_learning_rate_warms_up_holds_and_falls_to_zero() -> None:
    settings = dataclasses.replace(SETTINGS, images=1000, warmup_images=100, decay_images=200, lr=1.0)
    assert learning_rate(50, settings) == 0.5
    assert learning_rate(500, settings) == 1.0
    assert learning_rate(900, settings) == pytest.approx(0.5)
    assert learning_rate(1000, settings) == 0.0


def test_the_moving_average_is_never_the_network_that_trains() -> None:
    state = fresh()
    for _ in steps(state):
        pass
    assert not same(
        State(state.network, state.ema, state.optimizer), State(state.ema.network, state.ema, state.optimizer)
    )
    assert all(not p.requires_grad for p in state.ema.network.parameters())


LEARNED = dataclasses.replace(PARAMS.objective, learned_variance=True)


def test_a_training_that_learns_which_times_matter_goes_on_exactly_as_well(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, images=16 * 30, time_sampling="importance")

    def begin() -> State:
        torch.manual_seed(0)
        architecture: dict = dict(width=8, multipliers=(1, 2), blocks=1, attention=(), head_channels=8, dropout=0.0)
        return new_state(UNet(channels=1, size=8, classes=3, out_channels=2, **architecture), settings=settings)

    undisturbed, stopped, resumed = begin(), begin(), begin()
    times = [step.t for step in steps(undisturbed, settings, objective=LEARNED, T=4)]
    assert int(undisturbed.times["seen"].sum()) == 16 * 30
    for step in steps(stopped, settings, objective=LEARNED, T=4):
        if step.images_seen == 16 * 20:  # long after the memory is full and sampling is no longer uniform
            checkpoint.save(tmp_path, stopped, fingerprint="f", extra={})
            break
    checkpoint.restore(tmp_path, resumed, fingerprint="f")
    rest = [step.t for step in steps(resumed, settings, objective=LEARNED, T=4)]
    assert all(torch.equal(a, b) for a, b in zip(times[20:], rest, strict=True))
    assert same(resumed, undisturbed)
    assert torch.equal(resumed.times["losses"], undisturbed.times["losses"])


def test_importance_sampling_prefers_large_losses_and_leaves_the_expectation_as_it_was() -> None:
    process = make_schedule("cosine", 5)
    loss_at = torch.tensor([0.0, 4.0, 1.0, 1.0, 2.0, 8.0])
    memory: dict[str, torch.Tensor] = {}
    times = Importance(process, memory, CPU)
    assert torch.equal(times.probabilities(), torch.full((5,), 0.2))
    t = torch.arange(1, 6).repeat(HISTORY)
    times.learn(t, loss_at[t], skipped=torch.tensor(False))
    assert torch.allclose(times.probabilities(), loss_at[1:] / loss_at.sum(), atol=1e-3)
    t, weight = Importance(process, memory, CPU).draw(20_000, CPU)
    assert float((weight * loss_at[t]).mean()) == pytest.approx(float(loss_at[1:].mean()), rel=5e-3)


def test_log_normal_times_are_those_of_karras_et_al() -> None:
    exploding = VarianceExploding(0.002, 80.0)
    settings = dataclasses.replace(SETTINGS, time_sampling="log_normal", log_normal=(-1.2, 1.2))
    torch.manual_seed(0)
    t, weight = make_times(exploding, settings, memory={}, device=CPU).draw(40_000, CPU)
    assert float(t.log().mean()) == pytest.approx(-1.2, abs=0.03)
    assert float(t.log().std()) == pytest.approx(1.2, abs=0.03)
    assert torch.equal(weight, torch.ones(40_000))


@pytest.mark.parametrize(
    "process",
    [
        make_schedule("cosine", 1000),
        make_schedule("cosine", 1000, zero_terminal=True),
        make_continuous_schedule("linear", 1.0),
        make_continuous_schedule("sigmoid", 50.0),
    ],
)
def test_log_normal_times_are_logit_normal_on_the_linear_path_whatever_the_process_is(process: Process) -> None:
    settings = dataclasses.replace(SETTINGS, time_sampling="log_normal", log_normal=(-0.4, 0.9))
    torch.manual_seed(0)
    t, weight = make_times(process, settings, memory={}, device=CPU).draw(40_000, CPU)
    alpha, sigma = process.alpha(t), process.sigma(t)
    logit = torch.logit(sigma / (alpha + sigma))
    torch.manual_seed(0)
    expected = -0.4 + 0.9 * torch.randn(40_000)
    # Between two steps of the chain, the noise level changes by up to 1 % in the range that is drawn.
    assert float((logit - expected).abs().quantile(0.99)) < (0.02 if isinstance(process.T, int) else 1e-3)
    assert t.is_floating_point() != isinstance(process.T, int)
    assert float(t.min()) > 0
    assert float(t.max()) <= process.T
    assert torch.equal(weight, torch.ones(40_000))


@pytest.mark.parametrize(
    ("process", "times"),
    [
        (make_schedule("cosine", 8), [1, 2, 3, 4, 5, 6, 7, 8]),
        (make_continuous_schedule("cosine", 1.0), [0.01, 0.25, 0.26, 0.5, 0.51, 0.75, 0.76, 1.0]),
        (VarianceExploding(0.01, 100.0), [0.01, 0.09, 0.11, 0.9, 1.1, 9.0, 11.0, 100.0]),
    ],
)
def test_the_quarters_of_the_noise_range_are_even_on_the_scale_of_the_process(
    process: Process, times: list[float]
) -> None:
    assert quarters(process, CPU)(torch.tensor(times)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("schedule", [{"time": "continuous"}, {"name": "variance_exploding", "time": "continuous"}])
@pytest.mark.parametrize("target", ["eps", "x_0", "v", "edm"])
def test_every_process_trains_every_target(schedule: dict, target: str) -> None:
    process = make_process(dataclasses.replace(PARAMS.schedule, **schedule))
    objective = dataclasses.replace(PARAMS.objective, target=target, weight="simple")  # type: ignore[arg-type]
    settings = dataclasses.replace(SETTINGS, images=16 * 3, warmup_images=16, decay_images=16)
    state = fresh(settings)
    for step in train(
        state,
        batches(settings),
        method=Diffusion(process, make_times(process, settings, memory=state.times, device=CPU), objective),
        settings=settings,
        device=CPU,
        precision="float32",
    ):
        assert not step.skipped
        assert 0.1 < step.loss < 2  # a target of about unit variance, which the network does not predict yet
        assert float(step.t.min()) > 0
        assert float(step.t.max()) <= process.T


def test_the_loss_of_a_quarter_is_that_of_evenly_drawn_times_however_they_were_drawn() -> None:
    meter = Meter(CPU)
    t = torch.tensor([1, 1, 1, 3])  # a time drawn three times as often counts a third each time
    losses, weights = torch.tensor([4.0, 4.0, 4.0, 1.0]), torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0])
    one, never = torch.tensor(1.0), torch.tensor(False)
    process = make_schedule("cosine", 1000)
    method = Diffusion(process, Uniform(process), PARAMS.objective)
    terms = method.means(losses[:, None], Drawn(torch.zeros(4, 1), weights, t))
    step = Step(4, one, losses, weights, t, terms, one, 0.1, skipped=never, asked=())
    meter.add(step)
    assert meter.row(step)["loss_noise_quarter_1"] == pytest.approx(2.5)
    assert meter.row(step)["loss_noise_quarter_2"] is None


@pytest.mark.slow
def test_a_compiled_network_learns_what_the_network_as_it_is_learns() -> None:
    """With a C++ compiler for the CPU, which torch.compile needs."""
    settings = dataclasses.replace(SETTINGS, images=16 * 2, warmup_images=0, decay_images=0)
    states = [fresh(settings) for _ in range(2)]
    for state in states:
        for module in state.network.modules():
            if isinstance(module, torch.nn.Dropout):  # a compiled network has other masks
                module.p = 0.0
    states[1].network.compile()
    losses = [[step.loss for step in steps(state, settings)] for state in states]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert states[1].network.state_dict().keys() == states[0].network.state_dict().keys()
