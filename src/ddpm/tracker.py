"""Tracking of one run: a small protocol, an implementation that writes lines of JSON, and one that discards all."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image

Status = Literal["FINISHED", "FAILED", "KILLED"]
GROUP, DETAILS = "training/", "training_details/"
"""Beginnings of the names of a training's curves, by which MLflow groups charts: what to look at first, the rest."""


class Tracker(Protocol):
    """Receives parameters, metrics and pictures of one run. Time series are logged against `images_seen`."""

    run_id: str | None

    def params(self, values: Mapping[str, Any]) -> None:
        """Log the run's parameters, flat (see `flat`); a logged parameter keeps its value."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags, which may be changed later."""

    def log(self, metrics: Mapping[str, float], *, images_seen: int) -> None:
        """Log metrics at this point of the run."""

    def image(self, name: str, image: "Image", *, images_seen: int) -> None:
        """Log a picture at this point of the run."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Log a file, or a folder with its whole content."""

    def finish(self, status: Status = "FINISHED") -> None:
        """End the run; everything logged is stored when this returns."""


class NullTracker:
    """Discards everything."""

    run_id: str | None = None

    def params(self, values: Mapping[str, Any]) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def log(self, metrics: Mapping[str, float], *, images_seen: int) -> None: ...

    def image(self, name: str, image: "Image", *, images_seen: int) -> None: ...

    def artifact(self, path: Path, folder: str = "") -> None: ...

    def finish(self, status: Status = "FINISHED") -> None: ...


class JsonLinesTracker:
    """Appends one JSON object per line to `path`; pictures become PNG files in a folder of the same name beside it.

    A metric that is not finite becomes null, since JSON has no NaN and no infinity.
    """

    def __init__(self, path: Path, run_id: str | None = None) -> None:
        self.run_id = run_id
        self.path = path
        self.pictures = path.with_suffix("")
        path.parent.mkdir(parents=True, exist_ok=True)

    def params(self, values: Mapping[str, Any]) -> None:
        self._write("params", dict(values))

    def tags(self, values: Mapping[str, str]) -> None:
        self._write("tags", dict(values))

    def log(self, metrics: Mapping[str, float], *, images_seen: int) -> None:
        finite = {name: float(v) if math.isfinite(v) else None for name, v in metrics.items()}
        self._write("metrics", finite, images_seen=images_seen)

    def image(self, name: str, image: "Image", *, images_seen: int) -> None:
        file = self.pictures / f"{name}-{images_seen:012d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
        self._write("image", {name: str(file)}, images_seen=images_seen)

    def artifact(self, path: Path, folder: str = "") -> None:
        self._write("artifact", {"path": str(path), "folder": folder})

    def finish(self, status: Status = "FINISHED") -> None:
        self._write("status", {"status": status})

    def _write(self, what: str, values: dict[str, Any], **position: int) -> None:
        line = json.dumps({"what": what, **position, "values": values, "time": time()}, allow_nan=False, default=str)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


@contextmanager
def finishing(tracker: Tracker) -> Iterator[Tracker]:
    """End the run after the block: FINISHED, KILLED if a signal ends the process, or FAILED if the block raises.

    The caller sees the block's exception, even if the tracker fails too.
    """
    try:
        yield tracker
    except BaseException as error:
        try:
            tracker.finish("KILLED" if isinstance(error, SystemExit | KeyboardInterrupt) else "FAILED")
        except Exception as second:
            print(f"the run could not be finished: {second}", file=sys.stderr)
        raise
    tracker.finish("FINISHED")


def flat(**sections: Mapping[str, Any] | str) -> dict[str, Any]:
    """Return {"section.key": value} for every key of every section, and {"key": value} for a key outside of them."""
    values: dict[str, Any] = {}
    for name, section in sections.items():
        values |= {name: section} if isinstance(section, str) else {f"{name}.{key}": v for key, v in section.items()}
    return values


def metrics_of(row: Mapping[str, float | None]) -> dict[str, float]:
    """Return the values of a row of a training's curves that are not None, without images_seen, by their names here."""
    groups = {"loss": GROUP}
    return {
        f"{groups.get(name, DETAILS)}{name}": value
        for name, value in row.items()
        if value is not None and name != "images_seen"
    }
