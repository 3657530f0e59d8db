"""Data Docs: one page with the result of every check and with pictures of the data; it needs no network.

Great Expectations' own pages load their styles and the list of results from nine servers, so that offline their index
is empty, and they contain times and random ids, so that DVC would see a new output after every run. Equal data give an
equal index.html here. The date of the check is in run.js beside it, which DVC ignores (.dvcignore): where DVC restored
the page from its cache, the file is missing and the page says so.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm.data.previews import CLASS, EXTREMES, REJECTED, REJECTED_LIST
from ddpm.data.reading.dataset import Facts
from ddpm.data.validating.checking import Checked
from ddpm.data.validating.counting import Counted
from ddpm.data.validating.rules import observed
from ddpm.data.validating.settings import Validate
from ddpm.data.validating.shown_files import Shown
from ddpm.rendering.charts import histogram
from ddpm.rendering.page import render
from ddpm.rendering.pictures import Picture, strip

if TYPE_CHECKING:
    from markupsafe import Markup

INDEX, RUN = "index.html", "run.js"
CAPTIONED = 24
"""Training images that are shown with their captions."""
CAPTION_CHARACTERS = 200
"""Of a longer caption only the beginning is shown."""
NAMED_PER_REASON = 5
"""Rejected files that are named for each reason; rejected.csv has all."""
_SIZE_BARS, _MOST_VALUES = 20, 12


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


def write(docs: Path, checked: Checked, *, facts: Facts, limits: Validate, prepared: Path) -> None:
    """Write `docs`/index.html. The page has a few megabytes at most, for any number of images, classes and files."""
    outcomes, counted, shown = checked.outcomes, checked.counted, checked.shown
    failed = [outcome for outcome in outcomes if not outcome.passed]
    classes = list(_classes(facts, counted, shown.of(CLASS)))
    page = render(
        Path(__file__).parent / "data_docs.html",
        facts=facts,
        outcomes=[*failed, *(outcome for outcome in outcomes if outcome.passed)],
        failed=failed,
        observed=observed,
        asset_rows={**counted.rows, "arrays": 2, "classes": len(facts.classes)},
        sample=checked.sample,
        prepared=str(prepared),
        ignored=sum(facts.ignored.values()),
        rejected=list(_rejected(facts, counted, shown.of(REJECTED))),
        rejected_list=str(prepared / REJECTED_LIST),
        captions=[] if facts.captions is None else list(_captioned(shown.of(CLASS))),
        extremes=[(title, tiles) for kind, title in EXTREMES.items() if (tiles := _extreme(kind, counted, shown))],
        classes=classes,
        more_classes=len(facts.classes) - len(classes),
        brightness=_brightness(counted.brightness, limits),
        sizes=_sizes(counted.sides, facts.size),
    )
    docs.mkdir(parents=True, exist_ok=True)
    (docs / INDEX).write_text(page, encoding="utf-8")


def write_run(docs: Path) -> None:
    """Write the date of this check, which the page shows."""
    import great_expectations

    run = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Great Expectations {great_expectations.__version__}"
    (docs / RUN).write_text(f'document.getElementById("run").textContent = {json.dumps(run)};\n', encoding="utf-8")


def _rejected(facts: Facts, counted: Counted, shown: Shown) -> Iterator[tuple[str, int, list[Tile], list[str]]]:
    """Yield (reason, number of files, files with pictures, names of the first other ones)."""
    with_picture: dict[str, list[Tile]] = {}
    for file, image in shown:
        note = f"same as {counted.copies[file['sha256']]}" if file["sha256"] in counted.copies else ""
        with_picture.setdefault(file["reason"], []).append(Tile(file["path"], note, strip(image[None], columns=1)))
    for reason, n in sorted(facts.rejected.items(), key=lambda item: -item[1]):
        tiles = with_picture.get(reason, [])
        names = counted.rejected.get(reason, [])[: NAMED_PER_REASON + len(tiles)]
        others = [name for name in names if name not in {tile.path for tile in tiles}][:NAMED_PER_REASON]
        yield reason, n, tiles, others if len(tiles) < NAMED_PER_REASON else []


def _captioned(shown: Shown) -> Iterator[Tile]:
    """Yield training images with their captions, evenly spaced among the previews of all classes."""
    pairs = list(shown)
    for place in np.unique(np.linspace(0, len(pairs) - 1, min(CAPTIONED, len(pairs))).astype(int)):
        file, image = pairs[place]
        yield Tile(file["path"], _caption(file), strip(image[None], columns=1))


def _caption(file: Mapping[str, Any]) -> str:
    caption = file["caption"]
    if caption is None:
        return f"no caption ({file['no_caption']})"
    return caption if len(caption) <= CAPTION_CHARACTERS else f"{caption[:CAPTION_CHARACTERS]}…"


def _extreme(kind: str, counted: Counted, shown: Shown) -> list[Tile]:
    twins = dict(counted.twins.first)
    notes: dict[str, Callable[[dict[str, Any]], str]] = {
        "darkest": lambda file: f"mean {file['mean']:.1f}",
        "brightest": lambda file: f"mean {file['mean']:.1f}",
        "flattest": lambda file: f"standard deviation {file['std']:.1f}",
        "enlarged": _size,
        "longest": _size,
        "in_train": lambda file: f"pixels of {twins.get(file['path'], 'a training image')}",
    }
    return [Tile(file["path"], notes[kind](file), strip(image[None], columns=1)) for file, image in shown.of(kind)]


def _size(file: dict[str, Any]) -> str:
    return f"{file['original_width']} x {file['original_height']} pixels"


def _classes(facts: Facts, counted: Counted, shown: Shown) -> Iterator[ClassPictures]:
    pixels = shown.previews.pixels
    if not facts.classes:
        if len(pixels):
            yield ClassPictures("all images", facts.train, facts.test, strip(pixels, columns=10))
        return
    labels = np.array([file["label"] for file in shown.files], object)
    train, test = counted.classes["train"], counted.classes["test"]
    with_picture = set(labels)
    for name in facts.classes:
        if name in with_picture:
            yield ClassPictures(name, train[name], test[name], strip(pixels[labels == name], columns=10))
        elif name not in train:
            yield ClassPictures(name, 0, test[name], None)


def _brightness(counts: np.ndarray, limits: Validate) -> "Markup":
    return histogram(
        counts.tolist(),
        np.linspace(0, 255, len(counts) + 1).tolist(),
        title="Mean brightness of the images; dashed: the limits validate.brightness",
        x_label="mean brightness, 0 to 255",
        limits=limits.brightness,
    )


def _sizes(sides: Mapping[float, int], size: int) -> "Markup":
    """Return bars for each side length if there are few; else for ranges that grow by a constant factor."""
    values = np.array(sorted(sides))
    counts = np.array([sides[value] for value in values.tolist()])
    labels = [f"{value:.0f}" for value in values]
    if len(values) > _MOST_VALUES:
        edges = np.geomspace(values[0], values[-1] + 1, _SIZE_BARS + 1)
        counts, _ = np.histogram(values, bins=edges, weights=counts)
        labels = [f"{edge:.0f}" for edge in edges[:-1]]
    return histogram(
        counts.tolist(),
        [float(k) for k in range(len(counts) + 1)],
        title=f"Shorter side of the original images; they were prepared at {size} pixels",
        x_label="shorter side in pixels",
        tick_labels=labels,
    )
