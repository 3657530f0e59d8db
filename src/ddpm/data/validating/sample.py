"""A seeded sample of the manifest's rows for Great Expectations: each set of rows is equally likely."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddpm.compute.executors import Crew, in_order
from ddpm.data import manifest

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_SEED = 0


@dataclass(frozen=True)
class _Draw:
    part: Path
    number: int
    rows: int


def sampled(prepared: Path, rows: int, *, crew: Crew) -> "pd.DataFrame":
    """Return `rows` rows of the manifest in order, or all if it has fewer; the parts and `rows` decide which.

    Raises UserError if the manifest is missing or damaged.
    """
    import pyarrow as pa

    parts = manifest.parts(prepared)
    lengths = [manifest.rows_of(part) for part in parts]
    if sum(lengths) <= rows:
        return pa.concat_tables(manifest.read(prepared)).to_pandas()
    drawn = np.random.default_rng(_SEED).multivariate_hypergeometric(lengths, rows)
    tasks = [_Draw(part.resolve(), number, int(n)) for number, (part, n) in enumerate(zip(parts, drawn, strict=True))]
    return pa.concat_tables(in_order(crew.run(_drawn, tasks))).to_pandas()


def _drawn(task: _Draw) -> "pa.Table":
    table = manifest.read_part(task.part)
    random = np.random.default_rng([_SEED, task.number])
    return table.take(np.sort(random.choice(len(table), task.rows, replace=False)))
