"""Pictures of two digits beside each other, whose captions say which stands where: "a three left of a seven".

Of some pairs no picture is for training, so that a model is measured on captions that it never saw.
"""

from collections.abc import Sequence

import numpy as np

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_OUT = tuple((a, (3 * a + 4) % 10) for a in range(10))
"""Pairs of which no picture is for training; each digit is once on the left and once on the right."""
IN_TRAINING = tuple((a, b) for a in range(10) for b in range(10) if (a, b) not in HELD_OUT)
EACH = 50
"""Pictures of a pair."""


def caption(pair: tuple[int, int]) -> str:
    """Return the caption of a picture with these digits, the left one first."""
    return f"a {NAMES[pair[0]]} left of a {NAMES[pair[1]]}"


def composed(pairs: Sequence[tuple[int, int]], digits: np.ndarray, labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Return a picture of random ones of the digits, uint8 [M,d,d], for each pair of labels: uint8 [N,2d,2d]."""
    d = digits.shape[1]
    random, pictures = np.random.default_rng(seed), np.zeros((len(pairs), 2 * d, 2 * d), np.uint8)
    places = [np.flatnonzero(labels == k) for k in range(10)]
    for picture, (left, right) in zip(pictures, pairs, strict=True):
        picture[d // 2 : d // 2 + d, :d] = digits[random.choice(places[left])]
        picture[d // 2 : d // 2 + d, d:] = digits[random.choice(places[right])]
    return pictures


def parts(digits: np.ndarray, labels: np.ndarray) -> list[tuple[str, list[tuple[int, int]], np.ndarray]]:
    """Return the pairs and pictures of `train`, and of `test`, which has other pairs of other digits."""
    known = np.arange(len(digits)) % 5 != 0
    found = []
    for name, pairs, rows, seed in (("train", IN_TRAINING, known, 0), ("test", HELD_OUT, ~known, 1)):
        listed = [pair for _ in range(EACH) for pair in pairs]
        found.append((name, listed, composed(listed, digits[rows], labels[rows], seed=seed)))
    return found
