"""A training's whole state on disk. A kill loses at most a checkpoint interval and the time in which one is written.

`checkpoint_folder` describes the files. A file whose content does not have the hash in its name is refused, and with it
the checkpoint. A state that several processes wrote is restored by any number of processes, each of which reads what it
needs.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ddpm.compute.processes import any_of, leads, processes, rank, together
from ddpm.errors import on_one_line
from ddpm.training import checkpoint_file, checkpoint_folder
from ddpm.training.checkpoint_writer import Writer
from ddpm.training.loop import State
from ddpm.training.sharding import require_same
from ddpm.training.state_pieces import MOMENTS, local_piece, parameters_of


@dataclass(frozen=True)
class _Content:
    """The content of a checkpoint, before any of it is put into a state."""

    images_seen: int
    nonfinite_steps: int
    nonfinite_in_a_row: int
    extra: dict[str, Any]
    pieces: checkpoint_file.Pieces

    def names(self, prefix: str) -> list[str]:
        """Return the names of the tensors that begin with the prefix, without it."""
        return [name.removeprefix(prefix) for name in self.pieces.shapes if name.startswith(prefix)]

    def put(self, name: str, place: Tensor) -> None:
        """Copy the tensor, or the piece of it that this process has, to its place."""
        piece = local_piece(place.detach())
        piece.values.copy_(self.pieces.read_box(name, piece.offset, tuple(piece.values.shape)))


def save(folder: Path, state: State, *, fingerprint: str, extra: dict[str, Any]) -> Path | None:
    """Write a checkpoint and wait for it; return its path in rank 0. All processes must call this.

    Raises NotWrittenError if the disk is full or cannot be written to; then no part of the checkpoint is left.
    """
    writer = Writer(folder, fingerprint=fingerprint)
    writer.begin(state, extra=extra)
    return writer.finish()


def restore(folder: Path, state: State, *, fingerprint: str) -> tuple[dict[str, Any] | None, list[str]]:
    """Load the newest usable checkpoint into `state`; a refused checkpoint changes nothing in it.

    Returns the checkpoint's `extra`, or None if there is no usable one, and one sentence for each refused checkpoint.
    Files that an interrupted write left are removed. All processes must call this; each verifies some of the files.
    Raises UserError if the processes do not see the same folder.
    """
    if leads():
        checkpoint_folder.remove_leftovers(folder)
    together()
    found = checkpoint_folder.checkpoints(folder)
    require_same(len(found), what=f"the number of checkpoints in {folder}")
    refused: list[str] = []
    for path in reversed(found):
        try:
            content, reason = _open(path, fingerprint), ""
            _require_fit(content, state)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            reason = on_one_line(str(error) or repr(error))
        if any_of(bool(reason))[0]:
            reason = reason or "another process found that one of its parts is damaged"
            refused.append(f"{path.name} was refused ({reason}), so the one before it is tried")
        else:
            _put(content, state)
            return content.extra, refused
    return None, refused


def _open(path: Path, fingerprint: str) -> _Content:
    """Return the checkpoint's content. Raises ValueError, KeyError or SafetensorError for a damaged or foreign file."""
    checkpoint_file.require_undamaged(path)
    header = checkpoint_folder.header_of(path)
    if header["fingerprint"] != fingerprint:
        raise ValueError("it was written by a training with other parameters, data or code")
    parts = [path.with_name(Path(name).name) for name in header["parts"]]
    for part in parts[rank() :: processes()]:
        try:
            checkpoint_file.require_undamaged(part)
        except ValueError as error:
            raise ValueError(f"in {part.name}, {error}") from None
    seen, skipped, in_a_row = (int(header[key]) for key in ("images_seen", "nonfinite_steps", "nonfinite_in_a_row"))
    return _Content(seen, skipped, in_a_row, header["extra"], checkpoint_file.Pieces(parts or [path]))


def _require_fit(content: _Content, state: State) -> None:
    """Raise ValueError unless the names, shapes and types of the tensors are exactly those of the state."""
    places = {"network.": state.network.state_dict(), "ema.": state.ema.network.state_dict(), "times.": state.times}
    for prefix, tensors in places.items():
        if tensors or prefix != "times.":  # at the start, the choice of times has no tensors yet
            _require_same_layout(content, prefix, tensors)
    parameters = parameters_of(state)
    for index, names in _moments(content).items():
        if index >= len(parameters) or set(names) not in MOMENTS:
            raise ValueError(f"optimizer.{index} has {sorted(names)}, which this optimizer does not use")
        expected = list(parameters[index].shape)
        for name in names - {"step"}:
            if (shape := list(content.pieces.shapes[f"optimizer.{index}.{name}"])) != expected:
                raise ValueError(f"optimizer.{index} has the shape {shape}, expected {expected}")


def _require_same_layout(content: _Content, prefix: str, places: dict[str, Tensor]) -> None:
    if odd := sorted(set(content.names(prefix)) ^ set(places)):
        raise ValueError(f"{prefix}{odd[0]} is in the checkpoint or in the training, but not in both")
    for name, place in places.items():
        shape, dtype = content.pieces.shapes[f"{prefix}{name}"], content.pieces.types[f"{prefix}{name}"]
        if (shape, dtype) != (tuple(place.shape), place.dtype):
            raise ValueError(f"{prefix}{name} is {dtype} {list(shape)}, expected {place.dtype} {list(place.shape)}")


def _moments(content: _Content) -> dict[int, set[str]]:
    """Return the names of each parameter's moments."""
    moments: dict[int, set[str]] = {}
    for name in content.names("optimizer."):
        index, key = name.split(".")
        moments.setdefault(int(index), set()).add(key)
    return moments


@torch.no_grad()
def _put(content: _Content, state: State) -> None:
    for network, prefix in ((state.network, "network."), (state.ema.network, "ema.")):
        for name, place in network.state_dict().items():
            content.put(f"{prefix}{name}", place)
    parameters = parameters_of(state)
    moments: dict[int, dict[str, Tensor]] = {}
    for index, names in _moments(content).items():
        moments[index] = held = {"step": content.pieces.read(f"optimizer.{index}.step")}
        for name in sorted(names - {"step"}):
            held[name] = torch.empty_like(parameters[index])
            content.put(f"optimizer.{index}.{name}", held[name])
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    state.times = {name: content.pieces.read(f"times.{name}") for name in content.names("times.")}
    state.images_seen = content.images_seen
    state.nonfinite_steps = torch.tensor(content.nonfinite_steps)
    state.nonfinite_in_a_row = torch.tensor(content.nonfinite_in_a_row)


def fingerprint(parts: dict[str, Any]) -> str:
    """Return a hash of everything that determines a training, as 16 hex digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def code_hash(*paths: Path) -> str:
    """Return the sha256 of the names and contents of these Python files, and of all Python files in these folders."""
    digest = hashlib.sha256()
    for place in paths:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(f"{path.relative_to(place.parent)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
