"""The prepared data as tables, to which the rules refer.

files:   the manifest
images:  its kept rows, with original_shorter_side and caption_characters (missing without a caption)
train, test: the images of a split; test has same_as_in_train, the path of a training image with the same
         prepared pixels
arrays:  one row per split: shape and dtype of its images, and by how many rows they or labels.npy differ from
         the manifest
classes: one row per class, by its training images; share_of_equal is 1 for a perfectly balanced set
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddpm.data.reading.dataset import read_split
from ddpm.data.validating.rules import SAME_AS_IN_TRAIN

if TYPE_CHECKING:
    import pandas as pd

    from ddpm.data.validating.counting import Counted


def tables_of(files: "pd.DataFrame") -> "dict[str, pd.DataFrame]":
    """Return the tables of these rows of the manifest, `test` without same_as_in_train."""
    images = files[files["status"] == "kept"].copy()
    images["caption_characters"] = images["caption"].str.len() if images["caption"].notna().any() else np.nan
    images["original_shorter_side"] = images[["original_width", "original_height"]].min(axis=1)
    return {
        "files": files,
        "images": images,
        **{split: images[images["split"] == split].copy() for split in ("train", "test")},
    }


def with_same_as_in_train(tables: "Mapping[str, pd.DataFrame]") -> "dict[str, pd.DataFrame]":
    """Return the tables of the whole manifest with the column same_as_in_train of `test`."""
    known = tables["train"].dropna(subset="pixel_sha256")  # pandas would find a missing digest among missing ones
    first = known.drop_duplicates("pixel_sha256").set_index("pixel_sha256")["path"]
    test = tables["test"].assign(**{SAME_AS_IN_TRAIN: tables["test"]["pixel_sha256"].map(first)})
    return {**tables, "test": test}


def class_table(counted: "Counted", classes: Sequence[str]) -> "pd.DataFrame":
    """Return table `classes`."""
    import pandas as pd

    table = pd.DataFrame({"label": list(classes), "images": [counted.classes["train"][name] for name in classes]})
    table["share_of_equal"] = [share_of_equal(counted, name, len(classes)) for name in classes]
    return table


def share_of_equal(counted: "Counted", name: str, n_classes: int) -> float:
    """Return the training images of a class, relative to perfectly balanced classes."""
    return counted.classes["train"][name] * n_classes / max(counted.rows["train"], 1)


def array_table(prepared: Path, expected: Mapping[str, int]) -> "pd.DataFrame":
    """Return table `arrays`; `expected` has the number of images of each split in the manifest."""
    import pandas as pd

    rows = []
    for name in ("train", "test"):
        split = read_split(prepared, name)
        n, channels, height, width = split.images.shape
        lengths = {n} if split.labels is None else {n, len(split.labels)}
        rows.append(
            {
                "split": name,
                "images": n,
                "channels": channels,
                "height": height,
                "width": width,
                "dtype": str(split.images.dtype),
                "missing_rows": max(abs(expected[name] - length) for length in lengths),
            }
        )
    return pd.DataFrame(rows)
