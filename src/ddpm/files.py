"""Small files, written so that a reader never sees half of one."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Indented JSON, written aside and renamed. NaN and infinity are refused: JSON has no words for them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
    os.replace(aside, path)
