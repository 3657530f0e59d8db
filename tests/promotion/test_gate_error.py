"""The gate promotes the champion's own model in at most 5 of 100 simulated decisions, and a better one in at least 90.

The features are Gaussian, so that the distances of both models to the real images are known.
"""

import numpy as np
import torch
from fixed_contest import promote
from simulated_contest import Model, SimulatedContest

from ddpm.measuring.features.extractor import Described
from ddpm.promotion.gate import decide
from ddpm.promotion.settings import Rule

DIM, N, HELD_OUT, MOST = 4, 120, 80, 480
RULES = promote(Rule(figure="fid", better_by=0.02), max_images=MOST)


def described(features: np.ndarray) -> Described:
    return Described(torch.from_numpy(features).float(), torch.zeros(len(features), 1))


def contest(seed: int, *, champion_shift: float, candidate_shift: float, shared: float) -> SimulatedContest:
    def shifted(shift: float) -> Model:
        return lambda real: real + shift / np.sqrt(DIM)

    return SimulatedContest(
        np.random.default_rng(seed),
        n=N,
        m=HELD_OUT,
        dim=DIM,
        real=lambda noise, first: noise,
        models=(shifted(candidate_shift), shifted(champion_shift)),
        described=described,
        shared=shared,
    )


def promoted(decisions: int, *, candidate_fid: float, champion_fid: float, shared: float) -> float:
    """Return the share of decisions that promote; the shift of a Gaussian by s has the FID s^2."""
    shifts = {"champion_shift": np.sqrt(champion_fid), "candidate_shift": np.sqrt(candidate_fid)}
    found = (
        decide({"protocol": {"n": N}}, RULES, contest(seed, shared=shared, **shifts), has_champion=True).promote
        for seed in range(decisions)
    )
    return sum(found) / decisions


def test_a_model_against_itself_with_other_seeds_is_promoted_in_at_most_5_of_100_decisions() -> None:
    assert promoted(400, candidate_fid=0.5, champion_fid=0.5, shared=0.0) <= 0.05


def test_a_model_that_is_better_by_a_tenth_is_promoted_in_at_least_90_of_100_decisions() -> None:
    assert promoted(100, candidate_fid=4.5, champion_fid=5.0, shared=0.9) >= 0.9
