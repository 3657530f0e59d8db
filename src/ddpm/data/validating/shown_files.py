"""The previews of prepared data with their files' rows of the manifest."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.data import manifest
from ddpm.data.previews import REJECTED, Previews, read_previews
from ddpm.data.reading.dataset import Facts


@dataclass(frozen=True)
class Shown:
    """P previews with their files."""

    previews: Previews
    files: list[dict[str, Any]]
    """Row of the manifest for each preview."""

    def __iter__(self) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        return zip(self.files, self.previews.pixels, strict=True)

    def of(self, kind: str) -> "Shown":
        """Return those of this kind, in order."""
        files = [file for file, own in zip(self.files, self.previews.kind, strict=True) if own == kind]
        return Shown(self.previews.of(kind), files)

    @property
    def rejected_sha256(self) -> frozenset[str]:
        """Digests of the rejected files."""
        return frozenset(file["sha256"] for file in self.of(REJECTED).files if file["sha256"] is not None)


def read_shown(prepared: Path, facts: Facts) -> Shown:
    """Read the previews and their files; none if the manifest is damaged: no row is known to be that of its picture.

    Raises UserError if the manifest is missing or cannot be read.
    """
    previews = read_previews(prepared)
    if sum(map(manifest.rows_of, manifest.parts(prepared))) != facts.found:
        previews = previews.of("")
    return Shown(previews, manifest.rows_at(prepared, previews.row).to_pylist())
