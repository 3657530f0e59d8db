"""The distance by which the canary tells a version's images from others."""

from pathlib import Path

import pytest
import torch

from ddpm.canary import kept
from ddpm.canary.nearness import nearness
from ddpm.errors import UserError

LIMIT = 1.5
"""canary.max_distance"""


def features(n: int, seed: int, *, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    drawn = torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))
    return drawn * scale + shift


def test_images_of_the_same_distribution_are_as_near_as_the_measured_ones_among_themselves() -> None:
    measured = features(1000, 0)
    for seed in range(1, 41):
        near = nearness(features(64, seed), measured)
        assert near.distance <= LIMIT * near.by_chance


@pytest.mark.parametrize(("shift", "scale"), [(0.5, 1.0), (0.0, 1.6), (0.0, 0.3)])
def test_images_of_another_distribution_are_farther(shift: float, scale: float) -> None:
    near = nearness(features(64, 1, shift=shift, scale=scale), features(1000, 0))
    assert near.distance > LIMIT * near.by_chance


def test_the_distance_of_the_splits_is_that_of_their_two_parts() -> None:
    """Of 4 images in parts of 2 there are 3 splits; the largest distance is that of one of them, computed plainly."""
    measured = features(4, 0)

    def plain(a: torch.Tensor, b: torch.Tensor) -> float:
        return nearness(a, b).distance

    parts = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    largest = max(plain(measured[list(a)], measured[list(b)]) for a, b in parts)
    assert nearness(measured[:2], measured).by_chance == pytest.approx(max(0.0, largest))


def test_a_file_that_is_torn_is_refused_with_what_to_do(tmp_path: Path) -> None:
    whole = kept.Kept(
        machine={"device": "cpu"},
        pictures=torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
        features=features(3, 0),
        labels=torch.arange(3),
        classes=4,
        extractor=b"an extractor",
    )
    whole.write(tmp_path / "kept.safetensors")
    again = kept.read(tmp_path / "kept.safetensors")
    assert torch.equal(again.features, whole.features)
    assert (again.machine, again.extractor, again.condition_of(5)) == (whole.machine, b"an extractor", {"label": 1})
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "kept.safetensors").read_bytes()[:-5])
    with pytest.raises(UserError, match="dvc repro -f -s register"):
        kept.read(tmp_path / "torn.safetensors")
