"""Files that compare versions, kept as artifacts of the runs of these versions."""

import sys
from collections.abc import Iterable
from pathlib import Path

from ddpm.errors import UserError
from ddpm.promotion.registry import Version
from ddpm.tracking.store import connect, mlflow_errors

FOLDER = "comparisons"


def keep(versions: Iterable[Version], files: Iterable[Path]) -> list[str]:
    """Log the files to the run of each version; return the ids of these runs. A run that was deleted is left out."""
    client, files, kept = connect(), list(files), []
    for version in versions:
        if version.run_id is None or version.run_id in kept:
            continue
        try:
            with mlflow_errors():
                for file in files:
                    client.log_artifact(version.run_id, str(file), FOLDER)
        except UserError as error:
            print(f"the comparison is not kept with version {version.number}: {error}", file=sys.stderr)
        else:
            kept.append(version.run_id)
    return kept
