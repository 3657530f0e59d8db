"""Data Docs: one page with the result of every check and with pictures of the data; it needs no network.

Great Expectations' own pages load their styles and the list of results from nine servers, so that offline their index
is empty, and they contain times and random ids, so that DVC would see a new output after every run. Equal data give an
equal index.html here. The date of the check is in run.js beside it, which DVC ignores (.dvcignore): where DVC restored
the page from its cache, the file is missing and the page says so.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm.data.previews import CLASS, EXTREMES, REJECTED, REJECTED_LIST, Previews
from ddpm.data.reading.dataset import Facts
from ddpm.data.validating.rules import Outcome, observed
from ddpm.data.validating.settings import Validate
from ddpm.rendering.charts import histogram
from ddpm.rendering.page import render
from ddpm.rendering.pictures import Picture, strip

if TYPE_CHECKING:
    import pandas as pd
    from markupsafe import Markup

INDEX, RUN = "index.html", "run.js"
NAMED_PER_REASON = 5
"""Rejected files that are named for each reason; rejected.csv has all."""
_BRIGHTNESS_BARS, _SIZE_BARS, _MOST_VALUES = 32, 20, 12


@dataclass(frozen=True)
class Tile:
    """A file with its picture, if there is one, and a line about it."""

    path: str
    note: str
    picture: Picture | None


@dataclass(frozen=True)
class ClassPictures:
    name: str
    train: int
    test: int
    picture: Picture | None


def write(
    docs: Path,
    outcomes: Sequence[Outcome],
    *,
    facts: Facts,
    tables: "Mapping[str, pd.DataFrame]",
    previews: Previews,
    limits: Validate,
    prepared: Path,
) -> None:
    """Write `docs`/index.html. The page has a few megabytes at most, for any number of images, classes and files."""
    if len(tables["files"]) != facts.found:  # a damaged manifest: no row is known to be that of its picture
        previews = previews.of("")
    failed = [outcome for outcome in outcomes if not outcome.passed]
    classes = list(_classes(facts, tables, previews.of(CLASS)))
    page = render(
        Path(__file__).parent / "data_docs.html",
        facts=facts,
        outcomes=[*failed, *(outcome for outcome in outcomes if outcome.passed)],
        failed=failed,
        observed=observed,
        asset_rows={name: len(table) for name, table in tables.items()},
        prepared=str(prepared),
        ignored=sum(facts.ignored.values()),
        rejected=list(_rejected(facts, tables["files"], previews.of(REJECTED))),
        rejected_list=str(prepared / REJECTED_LIST),
        extremes=[(title, tiles) for kind, title in EXTREMES.items() if (tiles := _extreme(kind, tables, previews))],
        classes=classes,
        more_classes=len(facts.classes) - len(classes),
        brightness=_brightness(tables["images"]["mean"].to_numpy(), limits),
        sizes=_sizes(tables["images"]["original_shorter_side"].to_numpy(), facts.size),
    )
    docs.mkdir(parents=True, exist_ok=True)
    (docs / INDEX).write_text(page, encoding="utf-8")


def write_run(docs: Path) -> None:
    """Write the date of this check, which the page shows."""
    import great_expectations

    run = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Great Expectations {great_expectations.__version__}"
    (docs / RUN).write_text(f'document.getElementById("run").textContent = {json.dumps(run)};\n', encoding="utf-8")


def _rejected(
    facts: Facts, files: "pd.DataFrame", previews: Previews
) -> Iterator[tuple[str, int, list[Tile], list[str]]]:
    """Yield (reason, number of files, files with pictures, names of the first other ones)."""
    shown: dict[str, list[Tile]] = {}
    same = files[files["sha256"].isin(files["sha256"].iloc[previews.row]) & (files["status"] == "kept")]
    twins = dict(zip(same["sha256"], same["path"], strict=True))
    for row, image in zip(previews.row.tolist(), previews.pixels, strict=True):
        file = files.iloc[row]
        note = f"same as {twins[file['sha256']]}" if file["sha256"] in twins else ""
        shown.setdefault(file["reason"], []).append(Tile(file["path"], note, strip(image[None], columns=1)))
    rejected = files[files["status"] == "rejected"]
    for reason, n in sorted(facts.rejected.items(), key=lambda item: -item[1]):
        tiles = shown.get(reason, [])
        names = rejected["path"][rejected["reason"] == reason].head(NAMED_PER_REASON + len(tiles))
        others = [name for name in names if name not in {tile.path for tile in tiles}][:NAMED_PER_REASON]
        yield reason, n, tiles, others if len(tiles) < NAMED_PER_REASON else []


def _extreme(kind: str, tables: "Mapping[str, pd.DataFrame]", previews: Previews) -> list[Tile]:
    files, chosen = tables["files"], previews.of(kind)
    if not len(chosen.row):
        return []
    twins = tables["test"].set_index("path")["same_as_in_train"].dropna().to_dict() if kind == "in_train" else {}
    notes = {
        "darkest": lambda file: f"mean {file['mean']:.1f}",
        "brightest": lambda file: f"mean {file['mean']:.1f}",
        "flattest": lambda file: f"standard deviation {file['std']:.1f}",
        "enlarged": lambda file: _size(file),
        "longest": lambda file: _size(file),
        "in_train": lambda file: f"pixels of {twins.get(file['path'], 'a training image')}",
    }
    rows = [files.iloc[row] for row in chosen.row.tolist()]
    return [
        Tile(file["path"], notes[kind](file), strip(image[None], columns=1))
        for file, image in zip(rows, chosen.pixels, strict=True)
    ]


def _size(file: Any) -> str:
    return f"{int(file['original_width'])} x {int(file['original_height'])} pixels"


def _classes(facts: Facts, tables: "Mapping[str, pd.DataFrame]", previews: Previews) -> Iterator[ClassPictures]:
    if not facts.classes:
        if len(previews.row):
            yield ClassPictures("all images", facts.train, facts.test, strip(previews.pixels, columns=10))
        return
    labels = tables["files"]["label"].to_numpy()[previews.row]
    train, test = (tables[split]["label"].value_counts() for split in ("train", "test"))
    shown = set(labels)
    for name in facts.classes:
        if name in shown:
            images = previews.pixels[labels == name]
            picture = strip(images, columns=10)
            yield ClassPictures(name, int(train.get(name, 0)), int(test.get(name, 0)), picture)
        elif name not in train.index:
            yield ClassPictures(name, 0, int(test.get(name, 0)), None)


def _brightness(means: np.ndarray, limits: Validate) -> "Markup":
    counts, edges = np.histogram(means, bins=_BRIGHTNESS_BARS, range=(0, 255))
    return histogram(
        counts.tolist(),
        edges.tolist(),
        title="Mean brightness of the images; dashed: the limits validate.brightness",
        x_label="mean brightness, 0 to 255",
        limits=limits.brightness,
    )


def _sizes(sides: np.ndarray, size: int) -> "Markup":
    """Return bars for each side length if there are few; else for ranges that grow by a constant factor."""
    values, counts = np.unique(sides, return_counts=True)
    labels = [f"{value:.0f}" for value in values]
    if len(values) > _MOST_VALUES:
        edges = np.geomspace(values[0], values[-1] + 1, _SIZE_BARS + 1)
        counts, _ = np.histogram(sides, bins=edges)
        labels = [f"{edge:.0f}" for edge in edges[:-1]]
    return histogram(
        counts.tolist(),
        [float(k) for k in range(len(counts) + 1)],
        title=f"Shorter side of the original images; they were prepared at {size} pixels",
        x_label="shorter side in pixels",
        tick_labels=labels,
    )
