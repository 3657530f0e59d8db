"""The gate promotes the champion's own model in at most 5 of 100 simulated decisions, and a better one in at least 90.

The features are Gaussian, so that the distances of both models to the real images are known.
"""

from collections.abc import Collection

import numpy as np
import torch
from fixed_contest import promote

from ddpm.measuring.features.extractor import Described
from ddpm.measuring.frechet import fid_and_fid_infinity
from ddpm.measuring.measured import Measured, Pair
from ddpm.promotion.gate import decide
from ddpm.promotion.settings import Rule

DIM, N, HELD_OUT, MOST = 4, 120, 80, 480
RULES = promote(Rule(figure="fid", better_by=0.02), max_images=MOST)


class GaussianContest:
    """Image k of both models is drawn from noise of which a share is the same."""

    remarks = ()

    def __init__(self, seed: int, *, champion_shift: float, candidate_shift: float, shared: float) -> None:
        self._rng, self._shared = np.random.default_rng(seed), shared
        self._shifts = candidate_shift, champion_shift
        self._reference = described(self._rng.standard_normal((HELD_OUT, DIM)))
        self._drawn: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        self.images = 0
        self.draw_more(N)

    def draw_more(self, images: int) -> None:
        n = images - self.images
        common = self._rng.standard_normal((n, DIM))
        for drawn, shift in zip(self._drawn, self._shifts, strict=True):
            own = self._rng.standard_normal((n, DIM))
            drawn.append(np.sqrt(self._shared) * common + np.sqrt(1 - self._shared) * own + shift / np.sqrt(DIM))
        self.images = images

    def pairs(self, figures: Collection[str]) -> dict[str, Pair]:
        candidate, champion = (self._fid(drawn) for drawn in self._drawn)
        return {"fid": Pair(candidate, champion)}

    def _fid(self, drawn: list[np.ndarray]) -> Measured:
        return fid_and_fid_infinity(described(np.concatenate(drawn)), self._reference)[0]


def described(features: np.ndarray) -> Described:
    return Described(torch.from_numpy(features).float(), torch.zeros(len(features), 1))


def promoted(decisions: int, *, candidate_fid: float, champion_fid: float, shared: float) -> float:
    """Return the share of decisions that promote; the shift of a Gaussian by s has the FID s^2."""
    shifts = {"champion_shift": np.sqrt(champion_fid), "candidate_shift": np.sqrt(candidate_fid)}
    found = (
        decide({"protocol": {"n": N}}, RULES, GaussianContest(seed, shared=shared, **shifts), has_champion=True).promote
        for seed in range(decisions)
    )
    return sum(found) / decisions


def test_a_model_against_itself_with_other_seeds_is_promoted_in_at_most_5_of_100_decisions() -> None:
    assert promoted(400, candidate_fid=0.5, champion_fid=0.5, shared=0.0) <= 0.05


def test_a_model_that_is_better_by_a_tenth_is_promoted_in_at_least_90_of_100_decisions() -> None:
    assert promoted(100, candidate_fid=4.5, champion_fid=5.0, shared=0.9) >= 0.9
