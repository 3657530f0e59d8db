"""A second extractor adds its own FID and KID to the record and changes nothing else."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_weights import random_dinov2

from ddpm.measuring import fidelity
from ddpm.measuring.features import pretrained
from ddpm.measuring.features.classifier import Classifier
from ddpm.measuring.features.extractor import Extractor, FeatureExtractor
from ddpm.measuring.features.pretrained import load_pretrained
from ddpm.measuring.record import Record
from ddpm.params import load as load_params
from ddpm.promotion.gate import differences

SETTINGS = dataclasses.replace(
    load_params(Path(__file__).parents[2] / "params.yaml").evaluate, kid_subset_size=20, kid_subsets=5
)


def random_extractor(seed: int) -> Extractor:
    torch.manual_seed(seed)
    return Extractor(Classifier(channels=1, size=8, classes=4, dim=16).eval(), "rotation", accuracy=0.5)


def measure(images: np.ndarray, second: FeatureExtractor | None, *, n: int = 60) -> Record:
    """Measure images against others of the same kind, by a random first extractor."""
    draw = np.random.default_rng(1)
    train, test = (draw.integers(0, 256, (n, 1, 8, 8), np.uint8) for _ in range(2))
    record, _ = fidelity.measure_images(
        images,
        train,
        test,
        extractor=random_extractor(0),
        second=second,
        settings=SETTINGS,
        drawing={},
        seed=0,
        device=torch.device("cpu"),
        progress=False,
    )
    return record


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (60, 1, 8, 8), np.uint8)


def without_second(record: Record) -> dict[str, Any]:
    found = record.to_json()
    for values in (found, found["floor"]):
        for name in ("fid_second", "kid_second"):
            del values[name]
            values["interval"].pop(name, None)
    del found["protocol"]["second"]
    return found


def test_it_measures_what_it_would_as_the_first_and_leaves_the_rest_alone(images: np.ndarray) -> None:
    alone, both = measure(images, None), measure(images, random_extractor(7))
    same = measure(images, random_extractor(0))
    assert same.metrics["fid_second"] == same.metrics["fid"]
    assert same.metrics["kid_second"] == same.metrics["kid"]
    assert same.metrics.interval["fid_second"] == same.metrics.interval["fid"]
    assert same.floor["fid_second"] == pytest.approx(same.floor["fid"])
    assert both.metrics["fid_second"] != both.metrics["fid"]
    assert without_second(both) == without_second(alone)


def test_another_second_extractor_is_another_protocol(images: np.ndarray) -> None:
    alone, one, other = (
        measure(images, second).to_json() for second in (None, random_extractor(7), random_extractor(8))
    )
    hashes = [record["protocol"]["second"]["sha256"] for record in (one, other)]
    assert differences(one, other) == [f"second: sha256 {hashes[0]} and sha256 {hashes[1]}"]
    assert differences(alone, one) == ["second: None and rotation-16"]
    assert one["protocol"]["second"] == random_extractor(7).description.to_json()


def test_with_too_few_images_for_its_features_there_is_a_kid_only(
    images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pretrained.DINOV2, (64, 1), "dinov2-vit-s-14")
    random_dinov2(tmp_path / "dinov2.pth", width=64, depth=1, side=2)
    record = measure(images, load_pretrained("dinov2", tmp_path / "dinov2.pth"))
    assert record.metrics["fid_second"] is record.floor["fid_second"] is None
    assert np.isfinite(record.metrics["kid_second"] or np.nan)
