"""The metrics equal torch-fidelity's own and respond to what they measure; sets that cannot be measured are refused."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ddpm.errors import UserError
from ddpm.measuring import fidelity
from ddpm.measuring.features.extractor import Described, Extractor
from ddpm.measuring.features.extractor_training import train_extractor
from ddpm.measuring.frechet import frechet_distance
from ddpm.measuring.record import Record
from ddpm.measuring.torch_fidelity_options import known_options
from ddpm.params import load as load_params

CPU = torch.device("cpu")
PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
DRAWING = {"sampler": "ddim", "steps": 25}


@pytest.fixture(scope="module")
def digits() -> tuple[SimpleNamespace, SimpleNamespace]:
    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)[:, None]
    order = np.random.default_rng(0).permutation(len(images))
    return tuple(
        SimpleNamespace(images=images[rows], labels=data.target[rows].astype(np.int64))
        for rows in (order[360:], order[:360])
    )


@pytest.fixture(scope="module")
def trained(digits) -> Extractor:
    settings = dataclasses.replace(PARAMS.features, images=12_000)
    return train_extractor(*digits, kind="classifier", classes=10, settings=settings, device=CPU, progress=False)


@pytest.fixture(scope="module")
def measure(digits, trained: Extractor):
    """Map (generated, changes of the settings) to a Record, measured against the held-out digits.

    The same arrays (not equal ones) are measured once for all tests.
    """
    known: dict[tuple[Any, ...], tuple[Any, Record]] = {}

    def run(generated: np.ndarray, *, test: np.ndarray | None = None, by: Any = trained, **changes: Any) -> Record:
        arrays = generated, test, by  # kept, so that no other array gets the same id
        key = (*map(id, arrays), *changes.items())
        if key not in known:
            known[key] = arrays, measured(*arrays, **changes)
        return known[key][1]

    def measured(generated: np.ndarray, test: np.ndarray | None, by: Any, **changes: Any) -> Record:
        train, held_out = (part.images for part in digits)
        record, _ = fidelity.measure_images(
            generated,
            train,
            held_out if test is None else test,
            extractor=by,
            settings=dataclasses.replace(PARAMS.evaluate, **changes),
            drawing=DRAWING,
            seed=0,
            device=CPU,
            progress=False,
        )
        return record

    return run


def noisy(images: np.ndarray, std: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, std, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def test_real_images_against_themselves_have_no_distance(measure, digits) -> None:
    figures = measure(digits[1].images).metrics
    assert 0 <= figures["fid"] < 1e-6
    assert figures["kid"] < 0.05
    assert (figures["precision"], figures["recall"]) == (1.0, 1.0)


def test_the_distance_grows_with_the_noise(measure, digits) -> None:
    records = [measure(noisy(digits[0].images, std)) for std in (0, 20, 40, 80, 160)]
    for name in ("fid", "kid"):
        figures = [record.metrics[name] for record in records]
        assert figures == sorted(figures), name
        assert figures[-1] > 10 * figures[1] > 0, name
    precision = [record.metrics["precision"] for record in records]
    assert precision[0] > 0.8
    assert precision[-1] < 0.2


def test_blur_and_contrast_are_seen(measure, digits) -> None:
    images = digits[0].images.astype(np.float64)
    blurred = (images + np.roll(images, 1, axis=3)) / 2
    floor = measure(digits[0].images).floor["fid"]
    for changed in (blurred, images * 0.8):
        assert measure(changed.astype(np.uint8)).metrics["fid"] > 5 * floor


def test_what_is_missing_lowers_recall_and_score_and_not_precision(measure, digits) -> None:
    train = digits[0]
    whole, half = measure(train.images).metrics, measure(train.images[train.labels < 5]).metrics
    assert half["recall"] < whole["recall"] - 0.2
    assert half["precision"] > whole["precision"] - 0.1
    assert half["inception_score"] < 0.7 * whole["inception_score"]
    assert 1 <= half["inception_score"] <= 5.5


def test_classes_that_no_held_out_image_has_are_counted_in_the_record(measure, digits) -> None:
    train, test = digits
    whole, part = measure(train.images[:500]), measure(train.images[:500], test=test.images[test.labels < 6])
    assert "classes_left_out" not in whole.to_json()
    assert 1 <= part.to_json()["classes_left_out"] <= 4


def test_the_floor_is_that_of_as_many_real_training_images(measure, digits) -> None:
    train = digits[0].images
    everything = measure(noisy(train, 40))
    assert everything.floor_n == 1437
    assert everything.floor["fid"] == pytest.approx(measure(train).metrics["fid"], rel=1e-6)
    few = measure(train[:300])
    assert few.floor_n == 300
    assert few.floor["fid"] > 0
    more = measure(np.concatenate([train, train]))
    assert more.floor_n == 1437


def test_fid_equals_the_closed_form_for_gaussians() -> None:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2), Dowson and Landau 1982; the root by another method."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4000, 8)) @ rng.normal(size=(8, 8)) + rng.normal(size=8)
    b = rng.normal(size=(3000, 8)) @ rng.normal(size=(8, 8))

    def root(matrix: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T

    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    mean = a.mean(axis=0) - b.mean(axis=0)
    expected = mean @ mean + np.trace(c1) + np.trace(c2) - 2 * np.trace(root(root(c1) @ c2 @ root(c1)))
    described = [Described(torch.from_numpy(x).float(), torch.zeros(len(x), 2)) for x in (a, b)]
    assert frechet_distance(*described) == pytest.approx(expected, rel=1e-4)


def test_features_given_once_make_the_same_figures_as_torch_fidelitys_own_extraction(
    measure, digits, trained: Extractor
) -> None:
    import torch_fidelity

    class Registered(torch_fidelity.FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "features", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "features"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = dict(zip(("features", "logits"), trained(images[:, :1]), strict=True))
            return tuple(found[name] for name in self.features_list)

    class Rgb(torch.utils.data.Dataset):
        def __init__(self, images: np.ndarray) -> None:
            self.images = torch.from_numpy(images).expand(-1, 3, -1, -1)

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, k: int) -> torch.Tensor:
            return self.images[k]

    torch_fidelity.register_feature_extractor("registered-for-this-test", Registered)
    generated = noisy(digits[0].images, 30)
    theirs = torch_fidelity.calculate_metrics(
        input1=Rgb(generated),
        input2=Rgb(digits[1].images),
        feature_extractor="registered-for-this-test",
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=PARAMS.evaluate.kid_subset_size,
        kid_subsets=PARAMS.evaluate.kid_subsets,
        prc_neighborhood=PARAMS.evaluate.neighbours,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    ours = measure(generated).metrics
    for name, theirs_name in {
        "fid": "frechet_inception_distance",
        "inception_score": "inception_score_mean",
        "kid": "kernel_inception_distance_mean",
        "precision": "precision",
        "recall": "recall",
    }.items():
        # Batches of another size round the features slightly differently.
        assert ours[name] == pytest.approx(theirs[theirs_name], rel=1e-3, abs=2e-3), name


def test_changed_reference_images_change_the_figures_and_the_hash(measure, digits) -> None:
    generated, test = digits[0].images, digits[1].images
    before, after = measure(generated), measure(generated, test=noisy(test, 40))
    assert after.metrics["fid"] > 1.5 * before.metrics["fid"]
    assert after.protocol.reference_hash != before.protocol.reference_hash
    assert measure(generated, test=test.copy()) == before


def test_the_protocol_says_with_what_it_was_measured(measure, digits, trained: Extractor) -> None:
    protocol = measure(digits[0].images[:400]).protocol
    assert (protocol.n, protocol.reference_n) == (400, 360)
    assert protocol.extractor == trained.description.to_json()
    assert protocol.extractor.keys() == {"name", "layer", "resizing", "dtype", "sha256"}
    assert (protocol.drawing, protocol.seed) == (DRAWING, 0)
    assert protocol.torch_fidelity


def test_copies_of_training_images_are_a_share_of_one_and_new_real_images_are_not(measure, digits) -> None:
    train, test = (part.images for part in digits)
    copied = measure(train).metrics
    assert (copied["memorized_share"], copied["memorized_share_features"]) == (1.0, 1.0)
    fresh = measure(test)
    assert (copied["memorized_share_shifted"], copied["memorized_share_half"]) == (1.0, 1.0)
    shifted = measure(np.roll(train, 1, axis=2)).metrics
    assert shifted["memorized_share"] < 0.05
    assert shifted["memorized_share_shifted"] == 1.0
    assert (
        fresh.metrics["memorized_share_shifted"]
        == fresh.floor["memorized_share_shifted"]
        == pytest.approx(0.01, abs=1 / 360)
    )
    assert (
        fresh.metrics["memorized_share_half"] == fresh.floor["memorized_share_half"] == pytest.approx(0.01, abs=1 / 360)
    )
    assert fresh.metrics["memorized_share"] == fresh.floor["memorized_share"] == pytest.approx(0.01, abs=1 / 360)


def test_colour_images_without_labels_are_measured(digits) -> None:
    train, test = (
        SimpleNamespace(images=np.concatenate([part.images, part.images // 2, 255 - part.images], axis=1), labels=None)
        for part in digits
    )
    settings = dataclasses.replace(PARAMS.features, images=2000, dim=16)
    rotation = train_extractor(train, test, kind="rotation", classes=0, settings=settings, device=CPU, progress=False)
    record, _ = fidelity.measure_images(
        noisy(train.images, 30)[:500],
        train.images,
        test.images,
        extractor=rotation,
        settings=PARAMS.evaluate,
        drawing=DRAWING,
        seed=0,
        device=CPU,
        progress=False,
    )
    assert record.metrics["fid"] > record.floor["fid"] > 0
    assert record.metrics["inception_score"] is None  # rotations are not classes of images
    assert record.metrics["fid_second"] is record.metrics["kid_second"] is record.protocol.second is None
    assert Record.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False))) == record


@pytest.mark.parametrize("value", [0, 255])
def test_constant_images_have_finite_figures(measure, value: int) -> None:
    text = json.dumps(measure(np.full((200, 1, 8, 8), value, np.uint8)).to_json(), allow_nan=False)
    assert json.loads(text)["fid"] > 1


@pytest.mark.parametrize(
    ("n", "changes", "message"),
    [
        (64, {}, "64 generated images, but FID with 64 features needs more than 64"),
        (99, {}, "kid_subset_size is 100, .* 99 images; set it to at most 99"),
        (100, {"kid_subset_size": 50, "neighbours": 100}, "neighbours is 100, .* set it to at most 99"),
    ],
)
def test_too_few_images_are_refused_in_one_sentence(measure, digits, n: int, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        measure(digits[0].images[:n], **changes)
    assert "\n" not in str(refused.value)


def test_images_of_another_size_are_refused(measure) -> None:
    with pytest.raises(UserError, match="generated images are 1x16x16, the real ones 1x8x8"):
        measure(np.zeros((200, 1, 16, 16), np.uint8))


def test_an_option_that_torch_fidelity_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match="kid_subset_sise"):
        known_options(kid_subset_sise=100)
