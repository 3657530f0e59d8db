"""The shares of generated images that are copies of training images, as metrics with intervals."""

import numpy as np

from ddpm.measuring.measured import Measured, share_interval
from ddpm.measuring.memorization import CopiesInEveryWay

NAME = "memorized_share"


def memorized(copies: CopiesInEveryWay, *, held_out: bool = False) -> dict[str, Measured]:
    """Return the share of copies that each way of comparing finds, or that of held-out real images, by metric name."""
    found = {}
    for way, each in vars(copies).items():
        hits = (each.held_out if held_out else each.nearest).distance <= each.limit
        found[NAME if way == "pixels" else f"{NAME}_{way}"] = share(hits)
    return found


def share(hits: np.ndarray) -> Measured:
    """Return the mean of bool [N] with its interval."""
    found = int(hits.sum())
    return Measured(float(np.mean(hits)), *share_interval(found, len(hits) - found), by_image=hits - np.mean(hits))
