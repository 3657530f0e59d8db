"""Metrics of real digits notice every damage; those of an extractor that sees nothing are found to be unfit."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from ddpm.calibrating import reactions_picture
from ddpm.calibrating.expectations import EXPECTED, expectation_of
from ddpm.calibrating.reactions import Reactions, fault_of, react
from ddpm.errors import UserError
from ddpm.measuring.features.description import Description
from ddpm.measuring.features.extractor_training import train_extractor
from ddpm.measuring.measured import Measured
from ddpm.measuring.metric_catalogue import JUDGED
from ddpm.params import load as load_params

CPU = torch.device("cpu")
PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any]:
    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)[:, None]
    order = np.random.default_rng(0).permutation(len(images))
    parts = (order[360:900], order[:360])
    return tuple(SimpleNamespace(images=images[rows], labels=data.target[rows]) for rows in parts)  # type: ignore


def reacted(digits: tuple[Any, Any], extractor: Any, *, labels: bool = True) -> Reactions:
    train, test = digits
    return react(
        train.images,
        train.labels if labels else None,
        test.images,
        extractor=extractor,
        settings=PARAMS.evaluate,
        device=CPU,
        progress=False,
    )


@pytest.fixture(scope="module")
def trained(digits: tuple[Any, Any]) -> Any:
    settings = dataclasses.replace(PARAMS.features, images=6_000)
    return train_extractor(*digits, kind="classifier", classes=10, settings=settings, device=CPU, progress=False)


@pytest.fixture(scope="module")
def found(digits: tuple[Any, Any], trained: Any) -> Reactions:
    return reacted(digits, trained)


class Blind:
    """An extractor whose features are noise that does not depend on the image."""

    dim, names_classes = 16, True
    description = Description("blind", layer="none", resizing="none", dtype="float32", sha256="0" * 64)

    def __init__(self) -> None:
        self._random = torch.Generator().manual_seed(0)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(torch.randn(len(images), n, generator=self._random) for n in (16, 10))  # type: ignore


def test_every_metric_of_a_trained_extractor_notices_its_damages(found: Reactions) -> None:
    assert found.unfit == {}
    measured = {each.metric for each in found.reactions if each.expected}
    assert {"fid", "kid", "precision", "recall", "inception_score", "memorized_share_half"} <= measured


def test_every_metric_of_a_record_is_measured_under_a_damage_that_it_must_notice(found: Reactions) -> None:
    measured = {each.metric for each in found.reactions if each.expected}
    second = {"fid_second", "kid_second"}  # only with a second extractor
    assert {metric.name for metric in JUDGED if expectation_of(metric)} - second == measured


def test_metrics_of_an_extractor_that_sees_nothing_are_unfit_and_those_of_pixels_are_not(
    digits: tuple[Any, Any],
) -> None:
    unfit = reacted(digits, Blind()).unfit
    assert {"fid", "kid", "precision", "density", "inception_score", "memorized_share_features"} <= set(unfit)
    of_pixels = {"sharpness", *(f"memorized_share{way}" for way in ("", "_shifted", "_mirrored", "_half"))}
    assert of_pixels.isdisjoint(unfit)
    assert "blur" in unfit["fid"]
    assert "missing_classes" in unfit["inception_score"]


def test_without_classes_nothing_is_expected_of_the_damage_that_there_is_not(
    digits: tuple[Any, Any], trained: Any
) -> None:
    found = reacted(digits, trained, labels=False)
    assert "missing_classes" not in {damage.name for damage in found.damages}
    assert found.unfit == {}


def test_equal_data_give_equal_reports_which_are_json(found: Reactions, digits: tuple[Any, Any], trained: Any) -> None:
    assert json.dumps(found.to_json(), allow_nan=False) == json.dumps(reacted(digits, trained).to_json())


def test_too_few_images_are_refused_in_words(digits: tuple[Any, Any], trained: Any) -> None:
    train, test = digits
    few = SimpleNamespace(images=test.images[:80], labels=None)
    with pytest.raises(UserError, match=r"evaluate\.kid_subset_size is 100, but the smallest"):
        reacted((train, few), trained)


def steps(*values: float, reach: float = 0.1) -> tuple[Measured, ...]:
    return tuple(Measured(value, value - reach, value + reach) for value in values)


@pytest.mark.parametrize(
    ("measured", "direction", "fault"),
    [
        (steps(1, 2, 3), "rise", ""),
        (steps(3, 2, 1), "fall", ""),
        (steps(1, 0.95, 1.3), "rise", ""),  # back within the intervals
        (steps(1, 1.1, 1.15), "rise", "does not rise beyond its intervals from no damage (1) to the worst (1.15)"),
        (steps(1, 2, 3), "fall", "does not fall beyond its intervals from no damage (1) to the worst (3)"),
        (steps(1, 5, 3), "rise", "falls from 5 to 3 while the damage grows"),
    ],
)
def test_a_metric_must_move_beyond_its_intervals_and_never_back(
    measured: tuple[Measured, ...], direction: Any, fault: str
) -> None:
    assert fault_of(measured, direction) == fault


def test_every_expectation_names_a_damage_that_exists_and_a_reason(found: Reactions) -> None:
    names = {damage.name for damage in found.damages}
    for damages, why in EXPECTED.values():
        assert set(damages) <= names
        assert why.endswith(".")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_shows_every_damage(found: Reactions, channels: int, tmp_path: Path) -> None:
    damages = tuple(
        dataclasses.replace(each, images=tuple(images.repeat(channels, axis=1) for images in each.images))
        for each in found.damages
    )
    reactions_picture.draw(tmp_path / "new" / "reactions.png", dataclasses.replace(found, damages=damages))
    with Image.open(tmp_path / "new" / "reactions.png") as picture:
        assert picture.width > 800
        assert picture.height > 800
        assert len(picture.convert("RGB").getcolors(2**20) or []) > 200
