"""Find duplicate images, and draw the held-out ones."""

import hashlib

import numpy as np

from ddpm.data.preparing.layout import OPEN, TEST, TRAIN


def duplicates(sha256: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """Return bool [N]: the same bytes occur earlier in the same split. sha256 [N,32], splits [N]."""
    repeated = np.zeros(len(splits), bool)
    for code in (TRAIN, TEST, OPEN):
        rows = np.flatnonzero(splits == code)
        # Whole digests are compared only where their first 8 bytes are equal, which saves most of the memory.
        beginnings = np.ascontiguousarray(sha256[rows, :8]).view(np.uint64).ravel()
        _, group, sizes = np.unique(beginnings, return_inverse=True, return_counts=True)
        rows = rows[sizes[group] > 1]
        _, first = np.unique(_as_keys(sha256[rows]), return_index=True)
        repeated[rows] = True
        repeated[rows[first]] = False
    return repeated


def draw_test(pixel_sha256: np.ndarray, labels: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """Return bool [N]: held out. `fraction` of each class, rounded, and at least one image of a class of two or more.

    Images with equal pixels stay together, so that a copy of a training image never becomes a test image. The draw
    depends on pixels and seed, not on position: new images leave most of the old ones in their split.
    pixel_sha256 [N,32], labels [N].
    """
    groups, first, group_of = np.unique(_as_keys(pixel_sha256), return_index=True, return_inverse=True)
    rank = np.fromiter((_rank(bytes(pixel_sha256[row]), seed) for row in first), np.uint64, len(first))
    held_out = np.zeros(len(groups), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels[first] == label)
        n = min(max(round(fraction * len(members)), 1), len(members) - 1)
        if n > 0:
            held_out[members[np.argsort(rank[members], kind="stable")[:n]]] = True
    return held_out[group_of]


def _as_keys(sha256: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(sha256).view("S32").ravel()


def _rank(digest: bytes, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(digest, digest_size=8, key=str(seed).encode()).digest(), "big")
