"""The benchmarks of FID after equal time and of sampling at equal FID: their clock, their judge, and a tiny run."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddpm import overlay

ROOT = Path(__file__).parents[1]

SMALL = """
network: {width: 8, multipliers: [1, 2], blocks: 1, attention: [], head_channels: 8}
train: {batch_size: 16, images: 640, warmup_images: 64, decay_images: 320, ema_halflife_images: 64}
sample: {steps: 2}
"""


@pytest.fixture(scope="module", autouse=True)
def benchmarks() -> Any:
    """Their folder is where Python looks for modules first, as when they are run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield
        for name in [n for n in sys.modules if n.split(".")[0] in {"contenders", "common", "judge", "time_to_fid"}]:
            del sys.modules[name]


def module(name: str) -> Any:
    return importlib.import_module(name)


def digits() -> Any:
    return module("common").load_images(None, size=8)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_plan_is_the_speed_after_the_first_step_times_the_time_left() -> None:
    clock = Clock()
    budget = module("contenders").Budget(100.0, clock=clock)
    clock.now += 20  # set-up and the slow first step
    budget.note(10)
    assert budget.plan() is None
    clock.now += 10
    budget.note(110)  # 10 a second, with 70 seconds left, of which a hundredth is kept
    assert budget.plan() == 110 + round(0.99 * 700)
    assert budget.plan() is None  # once, until the next is due
    assert not budget.over
    clock.now += 70
    assert budget.over


def test_a_plan_that_ended_far_too_early_is_made_anew() -> None:
    clock = Clock()
    budget = module("contenders").Budget(100.0, clock=clock)
    budget.note(1)
    clock.now += 6
    budget.note(2)
    short = budget.plan()
    clock.now += 1
    budget.note(short)  # it has become faster
    assert budget.plan() > 5 * short


def test_time_in_a_pause_or_after_the_end_is_no_training() -> None:
    clock = Clock()
    budget = module("contenders").Budget(10.0, clock=clock)
    clock.now += 4
    with budget.pause():
        clock.now += 50
    assert budget.left == 6
    budget.end()
    clock.now += 50
    assert budget.spent == 4


@pytest.fixture(scope="module")
def judge(benchmarks: Any) -> Any:
    return module("judge").train_judge(digits(), seen=6_000)


def test_the_judge_knows_the_classes_and_finds_what_is_wrong_with_images(judge: Any) -> None:
    images = digits()
    train, labels = images.train, images.train_labels
    floor = judge.fid(train)
    assert judge.accuracy > 0.85
    draw = np.random.default_rng(0)
    noisy = np.clip(train + draw.normal(0, 30, train.shape), 0, 255).astype(np.uint8)
    blurred = ((train.astype(int) + np.roll(train, 1, 2) + np.roll(train, 1, 3)) // 3).astype(np.uint8)
    for worse in (noisy, blurred, train[labels < 5], np.repeat(train[:200], 5, axis=0)):
        assert judge.fid(worse) > 1.2 * floor


def test_the_judge_refuses_no_more_images_than_it_has_features(judge: Any) -> None:
    with pytest.raises(importlib.import_module("ddpm.errors").UserError, match="needs more"):
        judge.fid(digits().train[:96])


def test_ours_trains_to_the_end_of_its_decay_within_the_time_and_keeps_snapshots(tmp_path: Path) -> None:
    contenders, ours = module("contenders"), module("contenders.ours")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(SMALL)
    contender = ours.Ours(overlay.load(ROOT / "params.yaml", recipe), snapshots=(0.06,))
    budget = contenders.Budget(4.0)
    weights = contender.train(digits(), budget, tmp_path)
    assert weights == ["raw", "EMA", "EMA after 0.001 min"]
    assert 0.95 * 4 <= budget.spent < 5  # one step more at most
    assert contender.planned
    images = {name: contender.drawer(tmp_path, name)(4, 0, contender.default) for name in weights}
    assert {tuple(made.shape) for made in images.values()} == {(4, 1, 8, 8)}
    assert not torch.equal(images["raw"], images["EMA"])
    again = contender.drawer(tmp_path, "EMA")(4, 0, contender.default)
    assert torch.equal(images["EMA"], again)


@pytest.mark.parametrize(
    ("name", "needs"), [("diffusers", ["accelerate"]), ("lucidrains", ["denoising_diffusion_pytorch", "ema_pytorch"])]
)
def test_a_peer_trains_for_its_time_and_draws_with_both_its_weights(
    tmp_path: Path, name: str, needs: list[str]
) -> None:
    for package in needs:
        pytest.importorskip(package)
    contenders, kept = module("contenders"), module("contenders.kept")
    images = digits()
    few = replace(images, train=images.train[:200], train_labels=images.train_labels[:200])
    contender = kept.make_contender(name, None)
    trained = kept.train(contender, few, seconds=2.0, folder=tmp_path / name)
    assert trained.images_seen > 0
    assert kept.trained_before(tmp_path / name, data=images.name) == trained
    assert kept.trained_before(tmp_path / name, data="others") is None
    assert trained.weights == ["raw", "EMA"]
    setting = contenders.Setting("two steps", 2, contender.default.told)
    for kind in trained.weights:
        draw = contender.drawer(tmp_path / name, kind)
        made = draw(3, 0, setting)
        assert (tuple(made.shape), made.dtype) == ((3, 1, 8, 8), torch.uint8)
        assert torch.equal(made, draw(3, 0, setting))
        assert not torch.equal(made, draw(3, 1, setting))


def test_weights_of_diffusers_give_the_same_images_by_the_same_sampler_of_ours(tmp_path: Path) -> None:
    """Theirs is DDIM with its clipping of x_0 and "trailing" steps, ours DDIM; both in two steps from equal noise."""
    from ddpm.generation.recipe import neutral

    diffusers = pytest.importorskip("diffusers")
    contenders, same = module("contenders"), module("contenders.same_weights")
    params = overlay.load(ROOT / "params.yaml")
    torch.manual_seed(0)
    network = module("contenders.huggingface").Diffusers().network(1, 8)
    network.save_pretrained(tmp_path)
    setting = contenders.Setting("DDIM 2", 2, {"recipe": neutral(sampler="ddim", steps=2)})
    made = same.drawer(tmp_path, params.runtime)(3, 5, setting)

    from ddpm.generation.batch import PerImageNoise
    from ddpm.images import to_uint8

    scheduler = diffusers.DDIMScheduler(num_train_timesteps=1000, timestep_spacing="trailing")
    scheduler.set_timesteps(2)
    x = PerImageNoise(5, range(3), (1, 8, 8), torch.device("cpu"))()
    with torch.inference_mode():
        for t in scheduler.timesteps:
            x = scheduler.step(network.eval()(x, t).sample, t, x, use_clipped_model_output=True).prev_sample
    assert (made.int() - to_uint8(x).int()).abs().max() <= 1  # rounding


def test_the_cheapest_setting_that_reaches_the_target_is_chosen_or_one_as_good_as_the_best() -> None:
    contenders, measured = module("contenders"), module("contenders.measured")
    ladder = tuple(contenders.Setting(str(k), k) for k in (5, 10, 20, 50))
    fids = {5: 9.0, 10: 4.1, 20: 4.0, 50: 3.99}

    class Judge:
        def fid(self, images: int) -> float:
            return fids[images]

    def draw(n: int, seed: int, setting: Any) -> int:
        return setting.evaluations

    reached = measured.cheapest(draw, ladder, Judge(), n=1, target=4.05)
    assert (reached.chosen.evaluations, len(reached.fids)) == (20, 3)
    never = measured.cheapest(draw, ladder, Judge(), n=1, target=1.0)
    assert (never.chosen.evaluations, len(never.fids)) == (10, 4)


def test_the_report_has_a_line_for_every_contender_and_a_picture_of_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, output = tmp_path / "recipe.yaml", tmp_path / "report.md"
    recipe.write_text(SMALL)
    told = "--minutes 0.03 --contenders ours ours-unlabelled --images 110 --first 100 --judge-images 1000 "
    told += f"--recipe {recipe} --models {tmp_path} --pictures {tmp_path / 'pictures'} --output {output}"
    monkeypatch.setattr(sys, "argv", ["time_to_fid.py", *told.split()])
    module("time_to_fid").main()
    text = output.read_text()
    assert "| ours |" in text
    assert "| ours-unlabelled |" in text
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "real.png",
        *(f"{name}_{kind}.png" for name in ("ours", "ours-unlabelled") for kind in ("raw", "EMA")),
    }


@pytest.mark.slow  # starts a real model server, which imports for some 20 s
def test_the_served_champion_is_timed_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, output = tmp_path / "recipe.yaml", tmp_path / "report.md"
    recipe.write_text(SMALL)
    told = "--minutes 0.03 --peers --images 110 --judge-images 1000 --requests 3 --threads 1 "
    told += f"--recipe {recipe} --models {tmp_path} --output {output}"
    monkeypatch.setattr(sys, "argv", ["sampling.py", *told.split()])
    module("sampling").main()
    assert "One 8x8 image took " in output.read_text()
