"""A plan says what a training takes, and refuses by measured numbers what does not fit."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import tiny_training as tiny

from ddpm.networks.settings import Codec
from ddpm.params import load as load_params
from ddpm.planning import alternatives
from ddpm.planning.measuring import Measured
from ddpm.planning.plan import Pictures, Plan, duration, evaluation_seconds, gate_cost, sampling_seconds, size
from ddpm.training.settings import Lora

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
LARGE = dataclasses.replace(tiny.SPEC, size=64, network=dataclasses.replace(tiny.SPEC.network, width=32))
TRAIN = dataclasses.replace(tiny.SETTINGS, images=64_000, batch_size=64, max_hours=1.0)
COST = Measured(
    seconds=36.0,
    bytes=8_000_000_000,
    images_that_fit=80,
    parameters=1_234_567,
    trained=1_234_567,
    forward_seconds=0.1,
    flops_per_second=1e11,
    ratios=(0.25, 0.24, 0.5),
)


def plan(cost: Measured = COST, **changes: object) -> Plan:
    values: dict[str, object] = {
        "spec": LARGE,
        "pictures": Pictures(train=5_000, test=500),
        "settings": TRAIN,
        "cost": cost,
        "free_bytes": 10_000_000_000,
        "device_images": 64,
        "alternatives": alternatives.ranked(LARGE, cost.ratios, images=TRAIN.images),
        "sampling_seconds": 100.0,
        "evaluation_seconds": 200.0,
    }
    return Plan(**values | changes)  # type: ignore[arg-type]


def test_the_lines_name_pictures_network_memory_speed_hours_and_the_best_setting() -> None:
    said = "\n".join(plan().lines())
    for part in (
        "5,000 training pictures of 64x64, grey",
        "1,234,567 parameters",
        "10 hours, 1,000 steps of 64 images at 36 s each",
        "8 GB; 10 GB is free",
        "sampling: 1.7 minutes, comparing the images with the training images: 3.3 minutes",
        "not included: stage features",
        "change most with network.patch 2 (4.2 times shorter); also data.size 32 (4.0 times shorter)",
    ):
        assert part in said


def test_of_latents_the_plan_says_that_the_training_of_the_autoencoder_comes_on_top() -> None:
    codec = Codec(
        latent_channels=4, widths=(8, 8), blocks=1, groups=1, attention=False, quant=False, shift=0.0, scale=1.0
    )
    lines = plan(spec=dataclasses.replace(LARGE, codec=codec)).lines()
    assert any("not included: stage features, " in line and "stages autoencoder and encode" in line for line in lines)
    assert not any("stages autoencoder" in line for line in plan().lines())


def test_with_adapters_the_plan_says_how_many_parameters_are_trained() -> None:
    train = dataclasses.replace(TRAIN, start="champion", lora=Lora(rank=4, alpha=4.0))
    first, *_ = plan(dataclasses.replace(COST, trained=56_789), settings=train).lines()
    assert first.endswith("network of 1,234,567 parameters, 56,789 to train in adapters")


def test_a_length_planned_for_minutes_is_not_refused_because_the_machine_became_slower() -> None:
    assert plan(minutes=60.0).refusal() is None, "repeated with the recorded length, at a speed measured anew"


def test_for_a_planned_length_settings_change_the_time_of_a_step() -> None:
    """With train.minutes a training always takes that time: a cheaper step only means more steps."""
    assert plan(minutes=30.0).lines()[-1].startswith("plan: the time of a step would change most with network.patch 2")
    assert plan().lines()[-1].startswith("plan: the training's time would change most")


def test_a_training_that_takes_too_long_is_refused_with_the_images_that_would_fit() -> None:
    refused = plan().refusal()
    assert refused is not None
    assert "would take 10 hours (1,000 steps of 36 s" in refused
    assert "train.max_hours is 1; raise it" in refused
    assert "train.images 6400" in refused
    assert "network.patch 2 (4.2 times shorter)" in refused


@pytest.mark.parametrize("most", [10.1, None])
def test_a_training_within_the_limit_may_begin(most: float | None) -> None:
    assert plan(settings=dataclasses.replace(TRAIN, max_hours=most)).refusal() is None


def test_a_training_beyond_the_free_memory_is_refused_with_the_device_batch_that_would_fit() -> None:
    small = dataclasses.replace(COST, images_that_fit=31)
    refused = plan(small, free_bytes=4_000_000_000, settings=dataclasses.replace(TRAIN, max_hours=None)).refusal()
    assert refused is not None
    assert "needs 8 GB of memory with 64 images at a time, but 4 GB is free" in refused
    assert "set runtime.device_batch to 31" in refused


def test_a_training_of_which_not_one_image_fits_has_no_time_and_is_refused_for_memory() -> None:
    none = Measured(math.inf, 10**10 + 1, 0, 0, 0, None, 0.0, (None,) * 3)
    refused = plan(none, sampling_seconds=None, evaluation_seconds=None).refusal()
    assert refused is not None
    assert "hours" not in refused
    assert "one image" in refused
    assert "not even one picture" in plan(none).lines()[-1]


def test_a_training_that_continues_is_planned_for_the_rest() -> None:
    said = plan(images_seen=48_000).lines()[1]
    assert "training after 48,000 images: 2.5 hours, 250 steps" in said


def test_guidance_doubles_sampling_and_the_likelihood_adds_to_the_evaluation() -> None:
    pictures, sample, evaluate = Pictures(5_000, 500), PARAMS.sample, PARAMS.evaluate
    guided = dataclasses.replace(sample, guidance=2.0)
    seconds = [
        sampling_seconds(LARGE, pictures, one, forward_seconds=0.1, processes=1) or 0 for one in (sample, guided)
    ]
    assert seconds == pytest.approx([5_000 * sample.steps * 0.1, 2 * 5_000 * sample.steps * 0.1])
    within = dataclasses.replace(guided, guidance_interval=(0.3, 2.0))
    inside = sampling_seconds(LARGE, pictures, within, forward_seconds=0.1, processes=1)
    assert inside == pytest.approx(5_000 * 11 * 0.1)
    without = evaluation_seconds(LARGE, pictures, sample, evaluate, cost=COST, processes=1) or 0
    bounded = dataclasses.replace(evaluate, bits_per_dim=10)
    more = (evaluation_seconds(LARGE, pictures, sample, bounded, cost=COST, processes=1) or 0) - without
    assert more == pytest.approx(10 * (1000 + 600) * 0.1)


def test_the_plan_names_the_most_images_that_the_gate_draws_while_it_is_undecided() -> None:
    rules = dataclasses.replace(PARAMS.promote, max_images=21_000)
    pictures, seconds = Pictures(5_000, 500), 0.1 * PARAMS.sample.steps
    cost = gate_cost(LARGE, pictures, PARAMS.sample, rules, forward_seconds=0.1)
    assert cost is not None
    # 5,000 of the candidate are those of the evaluation; two looks double them to 20,000 of each.
    assert (cost.images, cost.seconds) == (20_000, pytest.approx((15_000 + 20_000) * seconds))
    said = "\n".join(plan(gate=cost).lines())
    assert "at most 20,000 of each (promote.max_images), 9.7 hours if the champion draws as fast" in said
    few = dataclasses.replace(rules, max_images=1)
    only = gate_cost(LARGE, pictures, PARAMS.sample, few, forward_seconds=0.1)
    assert only is not None
    assert (only.images, only.seconds) == (5_000, pytest.approx(5_000 * seconds)), "those of the champion"
    alone = dataclasses.replace(rules, rules=rules.rules[1:])
    assert gate_cost(LARGE, pictures, PARAMS.sample, alone, forward_seconds=0.1) is None
    assert "the gate" not in "\n".join(plan().lines())


def test_processes_share_the_search_for_copies_and_a_limit_of_held_out_images_shortens_it() -> None:
    def seconds(test: int, processes: int = 1) -> float:
        pictures = Pictures(1_000_000, test)
        found = evaluation_seconds(LARGE, pictures, PARAMS.sample, PARAMS.evaluate, cost=COST, processes=processes)
        assert found is not None
        return found

    assert seconds(10_000, processes=4) == pytest.approx(seconds(10_000) / 4)
    assert seconds(200_000) == seconds(10_000) == pytest.approx(2 * seconds(0))


def test_alternatives_are_valid_models_and_only_those_that_save_time_are_named() -> None:
    models = alternatives.models(LARGE)
    assert list(models) == [("data.size", 32), ("network.patch", 2), ("network.width", 16)]
    assert models["network.width", 16].network.width == 16
    ranked = alternatives.ranked(LARGE, (0.97, None, 0.6), images=None)
    assert [str(one) for one in ranked] == ["network.width 16 (1.7 times shorter)"]
    assert alternatives.models(tiny.SPEC) == {}, "8x8 pixels and width 8 cannot be halved"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.25, "0.25 s"), (52.4, "52 s"), (210, "3.5 minutes"), (68.2 * 3600, "68 hours")]
)
def test_times_are_said_in_a_fitting_unit(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_bytes_are_said_in_a_fitting_unit() -> None:
    assert (size(210e6), size(31.2e9)) == ("210 MB", "31.2 GB")
    assert re.fullmatch(r"\d+ GB", size(97.4e10))
