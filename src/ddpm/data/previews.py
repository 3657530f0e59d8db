"""What prepared data contain for people: small pictures of some files, and the list of the rejected ones.

The number of pictures is bounded for any data set.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

FILE = "previews.npy"
REJECTED_LIST = "rejected.csv"
"""Reason and path of every rejected file; missing if there are none."""
SIDE = 64
"""Largest height and width of a preview in pixels."""
CLASS = "class"
EXTREMES = {
    "darkest": "the darkest",
    "brightest": "the brightest",
    "flattest": "the least contrast",
    "enlarged": "smaller than the prepared size, so enlarged",
    "longest": "the longest shapes, of which most is cut off or padded",
    "in_train": "held out although a training image has the same pixels",
}
"""Images that a person should look at, by kind."""
REJECTED = "rejected"


@dataclass(frozen=True)
class Previews:
    """P pictures of files."""

    row: np.ndarray
    """int64 [P], row in the manifest."""
    kind: np.ndarray
    """str [P]: CLASS (some training images of every class), a key of EXTREMES, or REJECTED."""
    pixels: np.ndarray
    """uint8 [P,C,S,S]."""

    def of(self, kind: str) -> "Previews":
        """Return those of this kind, in order."""
        chosen = self.kind == kind
        return Previews(self.row[chosen], self.kind[chosen], self.pixels[chosen])


def write_previews(folder: Path, previews: Previews) -> None:
    table = np.empty(len(previews.row), [("row", "i8"), ("kind", "S12"), ("pixels", "u1", previews.pixels.shape[1:])])
    table["row"], table["kind"], table["pixels"] = previews.row, previews.kind.astype("S12"), previews.pixels
    np.save(folder / FILE, table)


def read_previews(folder: Path) -> Previews:
    """Read the previews of the prepared data in `folder`; none if the file is missing."""
    path = folder / FILE
    if not path.exists():
        return Previews(np.empty(0, np.int64), np.empty(0, "U12"), np.empty((0, 1, 1, 1), np.uint8))
    table = np.load(path)
    return Previews(table["row"], table["kind"].astype("U12"), table["pixels"])
