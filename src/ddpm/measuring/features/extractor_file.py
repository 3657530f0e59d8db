"""The files of the first and the second extractor: a trained network, or the path of published weights."""

import json
import os
from pathlib import Path
from typing import Any, get_args

import torch

from ddpm.errors import UserError
from ddpm.measuring.features.classifier import Classifier
from ddpm.measuring.features.extractor import HEADER, Extractor, FeatureExtractor, packed
from ddpm.measuring.features.pretrained import load_pretrained
from ddpm.measuring.features.settings import Pretrained

NONE = {"kind": "none"}
"""Header of the second extractor's file if there is no second extractor."""


def save(extractor: FeatureExtractor | None, path: Path) -> None:
    """Write the file of an extractor, or of none, aside and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(packed(NONE, {}) if extractor is None else extractor.packed())
    os.replace(aside, path)


def load_extractor(path: Path, device: torch.device | str = "cpu") -> FeatureExtractor:
    """Load the first extractor: the network in the file, or a published one with the weights that the file names.

    Raises UserError for a file that is not an extractor, and for weights that are missing or have another sha256.
    """
    extractor = load_second(path, device)
    if extractor is None:
        raise UserError(f"{path} is the file of no extractor; create one with `dvc repro features`")
    return extractor


def load_second(path: Path, device: torch.device | str = "cpu") -> FeatureExtractor | None:
    """Load the second extractor; None if the file says that there is none. Raises as `load_extractor` does."""
    from safetensors.torch import load_file

    header = _read_header(path)
    kind = header.pop("kind")
    if kind == NONE["kind"]:
        return None
    if kind in get_args(Pretrained):
        return load_pretrained(kind, Path(header["weights"]), device, sha256=header["sha256"])
    accuracy = header.pop("accuracy")
    network = Classifier(**header)
    network.load_state_dict(load_file(path))
    return Extractor(network.to(device).eval().requires_grad_(False), kind, accuracy)


def _read_header(path: Path) -> dict[str, Any]:
    """Return the header of an extractor's file.

    Raises UserError for a file that is missing, incomplete, or not an extractor.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path} is not an extractor file; create one with `dvc repro features`")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except SafetensorError as error:
        raise UserError(
            f"{path} is not a complete safetensors file ({error}); create it again with `dvc repro features`"
        ) from None
    if HEADER not in header:
        raise UserError(
            f"{path} has no {HEADER!r} in its header, so it is not an extractor of this project; "
            "create one with `dvc repro features`"
        )
    return json.loads(header[HEADER])
