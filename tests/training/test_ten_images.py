"""A model that is trained on ten images copies them in the end: metrics show it, and the gate refuses the model."""

import dataclasses
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_training
import torch
from sklearn.datasets import load_digits

from ddpm.generation.generate import generate
from ddpm.generation.recipe import neutral
from ddpm.measuring import fidelity
from ddpm.measuring.data_copying import COPYING
from ddpm.measuring.features.extractor import Extractor
from ddpm.measuring.features.extractor_training import train_extractor
from ddpm.measuring.record import Record
from ddpm.model_file import Model
from ddpm.promotion.gate import MEMORIZED, decide
from ddpm.promotion.settings import Rule
from ddpm.training import session

CPU = torch.device("cpu")
PARAMS = tiny_training.PARAMS
BATCH, IMAGES = 16, 300
COPIES = {*MEMORIZED, "data_copying"}
SPEC = dataclasses.replace(
    tiny_training.SPEC,
    classes=tuple(f"picture {k}" for k in range(10)),
    unconditional=False,
    network=dataclasses.replace(tiny_training.SPEC.network, width=16, multipliers=(1,), attention=(), dropout=0.0),
)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, SimpleNamespace, SimpleNamespace]:
    """Ten images, each twenty times because FID needs more images than features; 1287 and 500 new ones."""
    data = load_digits()
    images, rows = np.unique(np.rint(data.images * (255 / 16)).astype(np.uint8)[:, None], axis=0, return_index=True)
    order = np.random.default_rng(0).permutation(len(images))
    others, held_out = (
        SimpleNamespace(images=images[part], labels=data.target[rows[part]].astype(np.int64))
        for part in (order[10:-500], order[-500:])
    )
    return np.tile(images[order[:10]], (20, 1, 1, 1)), others, held_out


@pytest.fixture(scope="module")
def extractor(digits) -> Extractor:
    settings = dataclasses.replace(PARAMS.features, images=6000)
    return train_extractor(*digits[1:], kind="classifier", classes=10, settings=settings, device=CPU, progress=False)


def trained(images: np.ndarray, *, steps: int, flip: bool = False) -> Model:
    settings = dataclasses.replace(
        tiny_training.SETTINGS,
        images=BATCH * steps,
        batch_size=BATCH,
        lr=0.008,
        warmup_images=BATCH * steps // 20,
        decay_images=BATCH * steps // 3,
        ema_halflife_images=BATCH * steps // 20,
        label_dropout=0.0,
        flip=flip,
    )
    with tempfile.TemporaryDirectory() as folder:
        training = session.begin(
            SPEC,
            images,
            np.arange(len(images)) % 10,
            data_hash="ten images",
            code_hash="made up",
            settings=settings,
            runtime=dataclasses.replace(PARAMS.runtime, checkpoint_seconds=1e6, progress=False),
            device=CPU,
            precision="float32",
            state_folder=Path(folder),
        )
        tiny_training.run(training)
    return Model(network=training.state.ema.network, spec=SPEC, lineage={}, sha256="of a model without a file")


def drawn(model: Model) -> np.ndarray:
    recipe = dataclasses.replace(neutral(sampler="dpmpp_2m", steps=10), time_grid="karras")
    return generate(model, recipe, n=IMAGES, seed=0, condition=torch.arange(IMAGES) % 10, batch=IMAGES).numpy()


def measured(generated: np.ndarray, digits, extractor: Extractor) -> Record:
    record, _ = fidelity.measure_images(
        generated,
        digits[0],
        digits[2].images,
        extractor=extractor,
        settings=PARAMS.evaluate,
        drawing={},
        seed=0,
        device=CPU,
        progress=False,
    )
    return record


def refused_for(record: Record) -> set[str]:
    """Return the metrics of copying because of which the gate refuses the model, with a rule for each of them."""
    rules = (*PARAMS.promote.rules, Rule(figure="data_copying", at_least=COPYING))
    decision = decide(record.to_json(), dataclasses.replace(PARAMS.promote, rules=rules), None, has_champion=False)
    failed = [each for each in decision.verdicts if each.outcome == "failed" and each.rule.figure in COPIES]
    assert not (failed and decision.promote)
    return {each.rule.figure for each in failed}


def test_copies_appear_while_a_model_trains_on_ten_images_and_the_gate_names_them(digits, extractor) -> None:
    early, late = (measured(drawn(trained(digits[0], steps=steps)), digits, extractor) for steps in (20, 200))
    assert early.metrics["memorized_share"] < 0.05 < 0.9 < late.metrics["memorized_share"]
    for name in ("memorized_share_shifted", "memorized_share_mirrored", "memorized_share_half"):
        assert early.metrics[name] < 0.05 < 0.5 < late.metrics[name], name
    assert late.metrics["memorized_share_features"] > 0.2
    assert late.metrics["data_copying"] < COPYING < early.metrics["data_copying"]
    assert late.metrics.interval["data_copying"].high < COPYING
    assert refused_for(early) == set()
    assert refused_for(late) == COPIES


def test_real_images_that_were_not_trained_on_are_no_copies(digits, extractor) -> None:
    record = measured(digits[1].images[:IMAGES], digits, extractor)
    assert record.metrics["memorized_share"] < 0.05
    assert record.metrics.interval["data_copying"].low < 0 < record.metrics.interval["data_copying"].high
    assert refused_for(record) == set()


@pytest.mark.slow
def test_mirrored_copies_are_found_and_refused(digits, extractor) -> None:
    """Half of the images that the model learns by heart are mirrored, so each kind alone is half of the copies."""
    record = measured(drawn(trained(digits[0], steps=600, flip=True)), digits, extractor)
    assert record.metrics["memorized_share"] < 0.7
    assert record.metrics["memorized_share_mirrored"] > 0.8
    assert record.metrics["data_copying"] < COPYING
    assert refused_for(record) >= {"memorized_share_mirrored", "data_copying"}
