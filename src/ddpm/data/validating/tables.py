"""The prepared data as tables, to which the rules refer."""

from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.data.reading.dataset import Facts, read_split

if TYPE_CHECKING:
    import pandas as pd


def read_tables(prepared: Path, facts: Facts) -> "dict[str, pd.DataFrame]":
    """Return the tables by name.

    files:   the manifest
    images:  its kept rows, with original_shorter_side
    train, test: the images of a split; test has same_as_in_train, the path of a training image with the same
             prepared pixels
    arrays:  one row per split: shape and dtype of its images, and by how many rows they or labels.npy differ from
             the manifest
    classes: one row per class, by its training images; share_of_equal is 1 for a perfectly balanced set
    """
    import pandas as pd

    files = pd.read_parquet(prepared / "manifest.parquet")
    images = files[files["status"] == "kept"].copy()
    images["original_shorter_side"] = images[["original_width", "original_height"]].min(axis=1)
    train, test = (images[images["split"] == split].copy() for split in ("train", "test"))
    first = train.drop_duplicates("pixel_sha256").set_index("pixel_sha256")["path"]
    test["same_as_in_train"] = test["pixel_sha256"].map(first)
    counts = train["label"].value_counts().reindex(list(facts.classes), fill_value=0)
    classes = pd.DataFrame({"label": list(counts.index), "images": counts.to_numpy()})
    classes["share_of_equal"] = classes["images"] * len(classes) / max(len(train), 1)
    return {
        "files": files,
        "images": images,
        "train": train,
        "test": test,
        "arrays": _arrays(prepared, {"train": len(train), "test": len(test)}),
        "classes": classes,
    }


def _arrays(prepared: Path, expected: dict[str, int]) -> "pd.DataFrame":
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
