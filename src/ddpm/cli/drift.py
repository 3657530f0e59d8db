"""The command that compares a folder of pictures with the data of the model."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpm.drifting.drift import Drift
    from ddpm.params import Params

PREPARED = Path("data/prepared")
EXTRACTOR = Path("models/extractor.safetensors")


def drift(args: argparse.Namespace) -> None:
    """Compare the new pictures of a folder with the held-out ones of the data; write a picture and the figures.

    It changes nothing else. Raises UserError if there are too few pictures, or no prepared data.
    """
    from ddpm.data.reading.dataset import read_facts
    from ddpm.drifting import incoming
    from ddpm.drifting.drift_picture import draw
    from ddpm.files import write_json
    from ddpm.params import load as load_params

    params = load_params()
    facts = read_facts(PREPARED)
    files = incoming.new_files(args.folder, prepared=PREPARED, classes=facts.classes)
    incoming.require_enough(len(files), params.retrain, args.folder)
    asked = incoming.question(files, facts, EXTRACTOR, params.retrain)
    found = _measured(files, args.folder, params)
    draw(args.out, found)
    if args.record is not None:
        write_json(args.record, {"question": asked, "picture": str(args.out), **found.to_json()})
    _print(found, has_classes=bool(facts.classes))
    print(f"{args.out} shows what {'drifted' if found.answer.drifted else 'was compared'}")


def last(record: Path, question: str) -> dict[str, Any] | None:
    """Return the figures of an earlier comparison that answer this question; None if there is none."""
    try:
        read = json.loads(record.read_text())
    except (OSError, ValueError):
        return None
    return read if isinstance(read, dict) and read.get("question") == question else None


def _measured(files: Any, folder: Path, params: "Params") -> "Drift":
    from ddpm.compute.hardware import choose_device
    from ddpm.drifting.drift import measure
    from ddpm.measuring.features.extractor_file import load_extractor

    device = choose_device(params.runtime.device)
    return measure(
        files,
        folder=folder,
        prepared=PREPARED,
        extractor=load_extractor(EXTRACTOR, device),
        data=params.data,
        settings=params.retrain,
        device=device,
        runtime=params.runtime,
    )


def _print(found: "Drift", *, has_classes: bool) -> None:
    from ddpm.drifting.drift import LABELS

    width = max(map(len, LABELS.values())) + 2
    print(f"{'':{width}}{'value':>12}{'same data':>14}{'p':>10}")
    for each in found.answer.compared:
        drifted = "  drifted" if each.drifted else ""
        print(f"{LABELS[each.name]:{width}}{each.value:>12.4g}{f'to {each.threshold:.4g}':>14}{each.p:>10.2g}{drifted}")
    if has_classes and found.incoming.sample.classes is None:
        print("class shares were not compared, because some pictures are in no folder of a class")
    for reason, number in found.rejected.items():
        print(f"{number} files cannot be used: {reason}")
    print(f"{'drifted' if found.answer.drifted else 'no drift'}: {found.sentence()}")
