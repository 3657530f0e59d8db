"""Have the incoming pictures drifted from the data? The same files are compared once, in a process of their own."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pages

from ddpm.cli.drift import EXTRACTOR, PREPARED, last
from ddpm.data.reading.dataset import read_facts
from ddpm.drifting import incoming, taking
from ddpm.errors import UserError
from ddpm.params import Params
from ddpm.params import load as load_params

RECORD = Path(".state/drift.json")
PICTURE = Path("reports/drift.png")
_COMMAND = "import sys; from ddpm.cli import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True)
class Incoming:
    """What a run says about the incoming pictures."""

    sentence: str
    """What was found, or why nothing was compared; empty if there is nothing to say."""
    drifted: bool = False
    is_new: bool = False
    """Whether no earlier run has said it."""
    in_data: bool = False
    """Whether the pictures are in the data now."""


NOTHING = Incoming("")


def look(*, seconds: float | None) -> Incoming:
    """Compare the incoming pictures with the data, and if they have drifted, take them into the data as settings say.

    A folder or a comparison that fails stops no retraining: the sentence says it. `seconds` limits the comparison.
    """
    params = load_params()
    if params.retrain.incoming is None:
        return NOTHING
    if not (PREPARED / "dataset.json").exists() or not EXTRACTOR.exists():
        return Incoming("the incoming pictures were not compared, because there are no prepared data yet")
    try:
        return _look(params, Path(params.retrain.incoming), seconds)
    except UserError as error:
        return Incoming(f"the incoming pictures were not compared: {error}")


def _look(params: Params, folder: Path, seconds: float | None) -> Incoming:
    facts, settings = read_facts(PREPARED), params.retrain
    files = incoming.new_files(folder, prepared=PREPARED, classes=facts.classes, called="retrain.incoming")
    if len(files) < settings.least_images:
        return NOTHING
    asked = incoming.question(files, facts, EXTRACTOR, settings)
    known = last(RECORD, asked)
    found = known or _compared(folder, seconds)
    if not found["drifted"]:
        return NOTHING if known else Incoming(f"the incoming pictures have not drifted: {found['sentence']}")
    sentence = f"drift: {found['sentence']}{_unless_of_champion(facts.content_hash)}"
    if settings.on_drift == "report":
        return Incoming(sentence, drifted=True, is_new=known is None)
    usable = set(found["usable"])  # a file that cannot be used would be rejected from the data, every night again
    try:
        taking.take(
            [file for file in files if file.sha256 in usable],
            folder=folder,
            data=params.data,
            prepared=PREPARED,
            classes=facts.classes,
        )
    except UserError as error:
        return Incoming(f"{sentence}; no picture was taken into the data: {error}", drifted=True, is_new=known is None)
    return Incoming(sentence, drifted=True, is_new=known is None, in_data=True)


def _unless_of_champion(data_hash: str) -> str:
    """Return a part of a sentence if the champion was trained on other data than the prepared ones."""
    champion = pages.registered().champion if pages.RUN.exists() else None
    of_champion = champion.origin().get("data_hash") if champion is not None else None
    return "" if of_champion in (None, data_hash) else "; the data are those of the last run, not of the champion"


def _compared(folder: Path, seconds: float | None) -> dict[str, Any]:
    """Return the record that `ddpm drift` writes. A decoder that crashes ends that process and not the flow."""
    words = ["drift", str(folder.absolute()), "--out", str(PICTURE), "--record", str(RECORD)]
    command = [sys.executable, "-c", _COMMAND, *words]
    RECORD.unlink(missing_ok=True)
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise UserError(f"the comparison did not end within {seconds:g} seconds; lower retrain.most_images") from None
    if done.returncode != 0:
        said = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
        raise UserError(said[-1] if said else f"`ddpm drift {folder}` ended with {done.returncode}; run it to see why")
    read: dict[str, Any] = json.loads(RECORD.read_text())
    return read
