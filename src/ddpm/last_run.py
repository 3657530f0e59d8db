"""Read what the last run of the pipeline in this folder made: from its files, the registry and MLflow."""

import csv
import json
import platform
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from ddpm.promotion.settings import Promote
    from ddpm.reporting.report_page import Images, LastRun

FILES = (
    *("prepared", "images", "model", "run", "metrics", "validation", "docs", "curves", "neighbours"),
    *("reactions", "damaged", "autoencoder", "reconstructions"),
)
"""The paths that `read` needs, as in the command of stage `report`."""
_WITHOUT_RESULTS = ("configure", "report")
"""Stages that depend on all code, or whose result is the page itself."""
_NAMED = 8
"""Changes that are named."""
_PACKAGES = ("torch", "numpy", "pillow", "torch-fidelity", "great-expectations", "dvc", "mlflow")


def read(paths: Any, promote: "Promote", *, outdated: str = "") -> "LastRun":
    """Return the last run; `paths` has a Path for each of FILES. Raises UserError if a file is missing or malformed."""
    from dataclasses import asdict

    from ddpm.data.reading.dataset import read_facts
    from ddpm.promotion.registry import champion_among, holding, judged_against
    from ddpm.rendering.pictures import from_file
    from ddpm.reporting.report_page import LastRun
    from ddpm.tracking.mlflow_registry import MlflowRegistry
    from ddpm.tracking.run_json import read_run
    from ddpm.tracking.run_summary import summary_of

    facts, measured = read_facts(paths.prepared), _json(paths.metrics)
    versions = MlflowRegistry(promote.name).versions()
    found = holding(versions, read_run(paths.run)["model_sha256"], measured.get("protocol", {}))
    return LastRun(
        facts=asdict(facts),
        validation=_json(paths.validation),
        data_docs=str(paths.docs / "index.html"),
        images=list(_images(paths.prepared, paths.images, facts.classes)),
        measured=measured,
        curves=list(_curves(paths.curves)),
        lineage=lineage_of(paths.model),
        promote=promote,
        neighbours=from_file(paths.neighbours),
        damaged=from_file(paths.damaged),
        reactions=_json(paths.reactions) if paths.reactions.exists() else {},
        run=summary_of(found.run_id) if found and found.run_id else None,
        version=found,
        against=judged_against(found, versions),
        champion=champion_among(versions),
        environment=dict(_environment()),
        autoencoder=_json(paths.autoencoder) if paths.autoencoder.exists() else {},
        reconstructions=from_file(paths.reconstructions / "reconstructions.png"),
        outdated=outdated,
    )


def outdated() -> str:
    """Return a sentence on what has changed since the last run, by DVC; empty if nothing has.

    It takes as long as DVC needs to compare the data. Empty also where DVC does not manage the folder.
    """
    if not Path(".dvc").is_dir() or not Path("dvc.yaml").is_file():
        return ""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            outs = {Path(str(out)).as_posix() for stage in repo.index.stages for out in stage.outs}
            status = {name: entries for name, entries in repo.status().items() if name not in _WITHOUT_RESULTS}
    except DvcException as error:
        return f"DVC could not compare these results with the project ({' '.join(str(error).split())})"
    if not status:
        return ""
    changes = list(dict.fromkeys(name for entries in status.values() for name in _changed(entries, outs)))
    named = ", ".join(changes[:_NAMED]) + (f" and {len(changes) - _NAMED} more" if len(changes) > _NAMED else "")
    return (
        f"{named or 'dvc.yaml'} changed since this run, so the results of {', '.join(status)}, and all that "
        "is made from them, are older than the project; `dvc repro` brings them up to date"
    )


def _changed(entries: list[Any], outs: set[str]) -> Iterator[str]:
    """Yield what a stage's status names as changed, without what other stages make of the changes."""
    for entry in entries:
        for kind, changes in entry.items() if isinstance(entry, dict) else ():
            for path, state in changes.items() if isinstance(changes, dict) else ():
                if isinstance(state, dict):
                    yield from state  # keys of params.yaml
                elif kind == "changed outs" or path not in outs:
                    yield path


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} was not found; run the pipeline: `dvc repro`") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); write it again with `dvc repro`") from None
    if not isinstance(read, dict):
        raise UserError(f"{path} is no JSON object; write it again with `dvc repro`")
    return read


def _curves(path: Path) -> Iterator[dict[str, float]]:
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield {name: float(value) for name, value in row.items() if value}


def lineage_of(model: Path) -> dict[str, Any]:
    """Return the lineage in the header of a model file, without reading its weights."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(model, framework="np") as file:
            header = next(iter((file.metadata() or {}).values()), "{}")  # its only entry
            return json.loads(header)["lineage"]
    except FileNotFoundError:
        raise UserError(f"{model} was not found; make it with `dvc repro train`") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{model} has no lineage in its header ({error}); make it with `dvc repro -f train`") from None


def _images(prepared: Path, generated: Path, classes: tuple[str, ...]) -> "Iterator[Images]":
    import numpy as np

    from ddpm.data.previews import CLASS, read_previews
    from ddpm.reporting.report_page import CLASSES, PER_CLASS, WITHOUT_CLASSES, Images

    previews = read_previews(prepared).of(CLASS)
    path = generated / "images.npy"
    images = np.load(path, mmap_mode="r") if path.exists() else np.empty((0, 1, 1, 1), np.uint8)
    labelled = (generated / "labels.npy").exists()
    if not classes or (len(images) and not labelled):  # a model of captions, or of no condition, draws no classes
        n = len(previews.pixels)
        spread = np.unique(np.linspace(0, n - 1, min(WITHOUT_CLASSES, n)).astype(int))  # they are in order of classes
        real = previews.pixels[spread]
        captions = generated / "captions.json"
        if captions.exists():
            yield Images("real training images", real, images[:0])
            texts = json.loads(captions.read_text(encoding="utf-8"))
            for caption, places in _first_of_captions(texts, n=CLASSES - 1, each=PER_CLASS).items():
                yield Images(caption or "without a caption", real[:0], images[places])
            return
        yield Images("all images", real, images[:WITHOUT_CLASSES])
        return
    of_previews = _labels_of(prepared, previews.row)
    of_images = np.load(generated / "labels.npy") if labelled else np.empty(0, np.int64)
    for number, name in enumerate(classes[:CLASSES]):
        rows = np.flatnonzero(of_images == number)[:PER_CLASS]
        yield Images(name, previews.pixels[of_previews == name][:PER_CLASS], images[rows])


def _first_of_captions(captions: "Sequence[str | None]", *, n: int, each: int) -> "dict[str | None, list[int]]":
    """Return the first n captions, and the places of the first images of each."""
    places: dict[str | None, list[int]] = {}
    for place, caption in enumerate(captions):
        if caption in places or len(places) < n:
            places.setdefault(caption, []).append(place)
    return {caption: rows[:each] for caption, rows in places.items()}


def _labels_of(prepared: Path, rows: "np.ndarray") -> "np.ndarray":
    import numpy as np

    from ddpm.data.manifest import rows_at

    return np.array(rows_at(prepared, rows, ["label"]).column("label").to_pylist(), object)


def _environment() -> Iterator[tuple[str, str]]:
    yield "Python", platform.python_version()
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            yield name, version(name)
