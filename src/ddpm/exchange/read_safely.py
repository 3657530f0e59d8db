"""Files of diffusers, read without trust in them: options of bounded size, shapes before memory, finite numbers."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ddpm.errors import UserError

WEIGHTS = "diffusion_pytorch_model.safetensors"
MAX_JSON = 2**20
"""Largest size of a file of options, in bytes; those of diffusers have a few thousand."""


def options_in(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file. Raises UserError."""
    if (size := path.stat().st_size) > MAX_JSON:
        raise UserError(f"{path} has {size} bytes, expected at most {MAX_JSON}; download or save it again")
    try:
        read = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); download or save it again") from None
    if not isinstance(read, dict):
        raise UserError(f"{path} contains no JSON object; download or save it again")
    return read


def shapes_in(weights: Path) -> dict[str, Tensor]:
    """Return the file's tensors on the meta device, without values.

    Raises UserError for a file that is missing or incomplete, and for a type that is not float.
    """
    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    shapes = {}
    if not weights.is_file():
        raise UserError(f"{weights} was not found; save the model again with safe_serialization=True")
    try:
        with safe_open(weights, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                if (kind := part.get_dtype()) not in kinds:
                    raise UserError(
                        f"{weights} has {kind} in {name}, expected one of {', '.join(kinds)}; save it again"
                    )
                shapes[name] = torch.empty(part.get_shape(), dtype=kinds[kind], device="meta")
    except SafetensorError as error:
        raise UserError(f"{weights} is not a complete safetensors file ({error}); download or save it again") from None
    return shapes


def weights_in(weights: Path) -> dict[str, Tensor]:
    """Return the file's tensors as float32; compare `shapes_in` with the network first.

    Raises UserError for one that is not finite, or too large for float32.
    """
    loaded = {name: tensor.to(torch.float32) for name, tensor in load_file(weights).items()}
    if broken := [name for name, tensor in loaded.items() if not bool(tensor.isfinite().all())]:
        raise UserError(f"{weights} has non-finite numbers in {broken[0]}; download or save it again")
    return loaded


def require_new(folder: Path) -> None:
    """Raise UserError unless the folder can be written: it does not exist, or is empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; name a new one")
