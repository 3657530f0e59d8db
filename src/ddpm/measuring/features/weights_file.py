"""Files of published weights, read without executing what is in them unless their sha256 is known."""

import hashlib
import io
import warnings
from pathlib import Path

import torch
from torch import Tensor

from ddpm.errors import UserError

_SHOWN = 12
"""Characters of a sha256 in messages."""


def sha256_of(path: Path, *, key: str) -> str:
    """Return the sha256 of a file of weights. `key` is the setting that has its path, for the message.

    Raises UserError if there is no such file.
    """
    if not path.is_file():
        raise UserError(f"{path} was not found; put the weights there, or correct {key}")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verified_content(path: Path, sha256: str) -> io.BytesIO:
    """Return the whole content, which is what was hashed, so that no other file can take its place before it is read.

    Raises UserError if it has another sha256.
    """
    content = path.read_bytes()
    require_sha256(path, hashlib.sha256(content).hexdigest(), expected=sha256, of="its content a moment ago; try again")
    return io.BytesIO(content)


def require_sha256(path: Path, found: str, *, expected: str, of: str) -> None:
    """Raise UserError if the sha256 that was found is another one than that `of` what the message names."""
    if found != expected:
        raise UserError(f"{path} has sha256 {found[:_SHOWN]}…, expected {expected[:_SHOWN]}… of {of}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of a state dict that torch saved, by name, on the CPU.

    Nothing in the file is executed. Raises UserError for a file that is incomplete or has anything but tensors.
    """
    from safetensors.torch import load_file

    expected = "expected a safetensors file, or a file of tensors by name that torch saved"
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of a TorchScript archive before it refuses it
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # torch has no error of its own for bytes that are none of its files
        raise UserError(f"{path} is incomplete, or cannot be read without executing code in it; {expected}") from None
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        raise UserError(f"{path} has other things than tensors by name; {expected}")
    return dict(found)
