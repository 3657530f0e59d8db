"""Candidate and champion are drawn with the same seeds and labels, and a model never beats itself."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captioned import text_of_spec
from fixed_contest import promote
from sklearn.datasets import load_digits

from ddpm.errors import UserError
from ddpm.generation.recipe import load_model
from ddpm.measuring.contest import Measuring, PairedContest, draw_block
from ddpm.measuring.features.extractor_file import save
from ddpm.measuring.features.extractor_training import train_extractor
from ddpm.model_file import Model
from ddpm.params import load as load_params
from ddpm.promotion.gate import Decision, decide, differences
from ddpm.promotion.settings import Rule

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
N, SEED = 120, 3
CLASSES = [str(k) for k in range(10)]
BETTER = Rule(figure="fid", better_by=0.02)


@pytest.fixture(scope="module")
def measuring(tmp_path_factory: pytest.TempPathFactory, write_split: Callable[..., None]) -> Measuring:
    """The digits as prepared data, and an extractor."""
    folder, data = tmp_path_factory.mktemp("digits"), load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)[:, None]
    order = np.random.default_rng(0).permutation(len(images))
    labels = data.target.astype(np.int64)
    for name, rows in (("train", order[360:]), ("test", order[:360])):
        write_split(folder / name, images[rows], labels[rows])
    evaluate = dataclasses.replace(PARAMS.evaluate, bits_per_dim=4, kid_subset_size=20, kid_subsets=4)
    runtime = dataclasses.replace(PARAMS.runtime, device="cpu", progress=False)
    made = Measuring(
        prepared=folder, extractor=folder / "e.safetensors", second=folder / "none", evaluate=evaluate, runtime=runtime
    )
    extractor = train_extractor(
        made.train,
        made.test,
        kind="classifier",
        classes=10,
        settings=dataclasses.replace(PARAMS.features, images=4_000, dim=16),
        device=torch.device("cpu"),
        progress=False,
    )
    save(extractor, made.extractor)
    save(None, made.second)
    return made


@pytest.fixture
def model(tmp_path: Path, tiny_model: Callable[..., str]) -> Callable[..., Model]:
    def made(seed: int, classes: list[str] = CLASSES, **recipe: Any) -> Model:
        file = tmp_path / f"{seed}-{len(classes)}.safetensors"
        tiny_model(file, seed=seed, classes=classes, recipe={"sampler": "ddim", "steps": 2} | recipe)
        return load_model(file)

    return made


def contest(candidate: Model, champion: Model | None, measuring: Measuring, *, seed: int = SEED) -> PairedContest:
    first = draw_block(candidate, N, seed, 0, measuring)
    return PairedContest(candidate, champion, first_block=first, seed=SEED, measuring=measuring)


def decided(match: PairedContest, *rules: Rule) -> Decision:
    return decide({"protocol": {"n": N}}, promote(*rules, max_images=4 * N), match, has_champion=True)


def test_every_block_of_a_model_against_itself_has_the_same_images_and_no_difference(
    model: Callable[..., Model], measuring: Measuring
) -> None:
    match = contest(model(0), model(0), measuring)
    match.draw_more(3 * N)
    assert match.images == 3 * N
    own = match._candidate.images
    assert len({block.tobytes() for block in np.split(own, 3)}) == 3, "blocks differ from each other"
    decision = decided(match, BETTER)
    assert np.array_equal(*(side.images for side in match._sides()))
    assert decision.verdicts[0].comparison == "equal"
    assert not decision.promote


def test_a_copy_of_the_champion_with_another_seed_is_not_promoted_and_a_clearly_better_model_is(
    model: Callable[..., Model], measuring: Measuring
) -> None:
    copy = decided(contest(model(0), model(0), measuring, seed=9), BETTER)
    assert not copy.promote
    fids = {seed: contest(model(seed), None, measuring).pairs(["fid"])["fid"].candidate.value for seed in (0, 1, 2)}
    best, *_, worst = sorted(fids, key=fids.__getitem__)
    better = decided(contest(model(best), model(worst), measuring), BETTER)
    assert better.promote
    assert better.verdicts[0].comparison == "better"
    worse = decided(contest(model(worst), model(best), measuring), BETTER)
    assert (worse.promote, worse.verdicts[0].comparison) == (False, "worse")


def test_every_kind_of_metric_can_be_compared(model: Callable[..., Model], measuring: Measuring) -> None:
    match = contest(model(0), model(1), measuring)
    figures = ["kid", "recall", "memorized_share_half", "bits_per_dim_ode", "seconds_per_image"]
    rules = [Rule(figure=name, worse_by_at_most=1000.0) for name in figures]
    decision = decided(match, *rules)
    for verdict in decision.verdicts:
        assert verdict.candidate is not None, verdict.sentence
        assert verdict.champion is not None, verdict.sentence
    seconds = match.pairs(["seconds_per_image"])["seconds_per_image"]
    assert seconds.candidate is not None
    assert 0 < seconds.candidate.value < 1


def test_a_metric_that_no_model_has_is_missing_and_its_rule_fails(
    model: Callable[..., Model], measuring: Measuring
) -> None:
    without = dataclasses.replace(measuring, evaluate=dataclasses.replace(measuring.evaluate, bits_per_dim=0))
    decision = decided(contest(model(0), model(1), without), Rule(figure="bits_per_dim_bound", better_by=0.0))
    assert not decision.promote
    assert "set evaluate.bits_per_dim above 0" in decision.reasons[0]


def test_models_of_other_classes_are_not_compared_in_pairs_and_the_decision_says_so(
    model: Callable[..., Model], measuring: Measuring
) -> None:
    match = contest(model(0), model(1, classes=["one", "other"]), measuring)
    assert not match.pairs(["fid"])["fid"].paired
    assert "different conditions" in decided(match, BETTER).reasons[-1]


def test_the_champion_is_measured_by_its_own_recipe_and_the_candidates_protocol(
    model: Callable[..., Model], measuring: Measuring
) -> None:
    own = {"sampler": "ddim", "steps": 3, "guidance": 2.0}
    champion, candidate = model(1, **own), model(0)
    measured = contest(candidate, champion, measuring).champion_record()
    again = contest(candidate, champion, measuring)
    assert again.champion_record() == measured
    assert {key: measured["protocol"]["drawing"][key] for key in own} == own
    assert differences(measured, contest(champion, candidate, measuring).champion_record()) == []
    fid = again.pairs(["fid"])["fid"].champion
    assert fid is not None
    assert fid.value == pytest.approx(measured["fid"])


def test_a_model_without_a_recipe_is_refused(
    model: Callable[..., Model], measuring: Measuring, tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    tiny_model(tmp_path / "bare.safetensors", recipe=None, classes=CLASSES)
    with pytest.raises(UserError, match="the champion has no recipe for drawing its images"):
        contest(model(0), load_model(tmp_path / "bare.safetensors"), measuring)


def test_a_champion_of_captions_stays_measurable_when_the_data_have_none(
    tmp_path: Path, tiny_model: Callable[..., str], model: Callable[..., Model], measuring: Measuring
) -> None:
    tiny_model(tmp_path / "text.safetensors", recipe={"sampler": "ddim", "steps": 2}, **text_of_spec())
    match = contest(model(1), load_model(tmp_path / "text.safetensors"), measuring)
    assert match.champion_record()["fid"] > 0
    assert "different conditions" in match.remarks[0]
