"""A training's whole state in one safetensors file. A kill at any moment loses at most one checkpoint interval.

A checkpoint is named `checkpoint-<images seen>-<first 16 hex digits of its sha256>.safetensors`. A file whose content
does not have this hash is refused.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter

from ddpm.compute.processes import leads
from ddpm.files import flush_names
from ddpm.training.loop import State
from ddpm.training.sharding import placed_like, whole

FORMAT = "ddpm-checkpoint-2"
KEPT = 2
_MOMENTS = ({"step", "exp_avg", "exp_avg_sq"}, {"step", "exp_avg"})
"""Tensors that AdamW and Muon store for a parameter. The fingerprint contains which of them is used."""


class NotWrittenError(Exception):
    """The checkpoint could not be written; earlier ones are unchanged. The message is the first part of a sentence."""


@dataclass(frozen=True)
class _Content:
    """The content of a checkpoint file, before any of it is put into a state."""

    images_seen: int
    nonfinite_steps: int
    nonfinite_in_a_row: int
    extra: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


def save(folder: Path, state: State, *, fingerprint: str, extra: dict[str, Any]) -> Path:
    """Write a checkpoint to a temporary file, flush it, rename it, and remove all but the last two; return its path.

    `extra` is plain data that belongs to this position: the curves so far, the tracker's run.
    All processes must call this, because a sharded state is gathered; only rank 0 writes.
    Raises NotWrittenError if the disk is full or cannot be written to; then no part of the file is left.
    """
    tensors = _tensors(state)
    position = f"checkpoint-{state.images_seen:012d}"
    if not leads():
        return folder / position
    header = {
        "fingerprint": fingerprint,
        "images_seen": state.images_seen,
        "nonfinite_steps": int(state.nonfinite_steps),
        "nonfinite_in_a_row": int(state.nonfinite_in_a_row),
        "extra": extra,
    }
    aside = folder / f"{position}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, aside, {FORMAT: json.dumps(header)})
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        path = folder / f"{position}-{_digest(aside)}.safetensors"
        os.replace(aside, path)
        flush_names(folder)
    except (SafetensorError, OSError) as error:
        _remove_leftovers(folder)
        raise NotWrittenError(f"{folder} could not be written to ({error})") from error
    others = [other for other in checkpoints(folder) if other != path]
    same_position = [other for other in others if other.name.startswith(position)]
    before = [other for other in others if other not in same_position]
    for old in same_position + before[: -(KEPT - 1)]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a training, oldest first; `restore` checks whether they are complete."""
    return sorted(folder.glob("checkpoint-*.safetensors"))


def restore(folder: Path, state: State, *, fingerprint: str) -> tuple[dict[str, Any] | None, list[str]]:
    """Load the newest usable checkpoint into `state`; a refused checkpoint changes nothing in it.

    Returns the checkpoint's `extra`, or None if there is no usable one, and one sentence for each refused checkpoint.
    Files that an interrupted write left are removed.
    """
    refused: list[str] = []
    _remove_leftovers(folder)
    for path in reversed(checkpoints(folder)):
        try:
            content = _read(path, fingerprint)
            _require_fit(content, state)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            refused.append(f"{path.name} was refused ({error}), so the one before it is tried")
        else:
            _put(content, state)
            return content.extra, refused
    return None, refused


def clear(folder: Path, *, but: int = 0) -> None:
    """Remove a training's checkpoints except the last `but`."""
    _remove_leftovers(folder)
    there = checkpoints(folder)
    for path in there[: len(there) - but]:
        path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _tensors(state: State) -> dict[str, Tensor]:
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in state.ema.network.state_dict().items()}
    tensors |= {f"times.{name}": value for name, value in state.times.items()}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    gathered = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach())  # every process must call this
        if leads():
            gathered[name] = value.cpu().contiguous()
    return gathered


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _remove_leftovers(folder: Path) -> None:
    """Remove what an interrupted write leaves: our `.part` files, and the `.tmp…` files of safetensors."""
    for pattern in ("checkpoint-*.part", ".tmp*"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)  # another process of this training may clean up too


def _read(path: Path, fingerprint: str) -> _Content:
    """Return the checkpoint's content. Raises ValueError, KeyError or SafetensorError for a damaged or foreign file."""
    expected = path.stem.rpartition("-")[2]
    if (found := _digest(path)) != expected:
        raise ValueError(f"its content has the hash {found}, expected {expected}: it is damaged or was changed")
    with safe_open(path, framework="pt") as file:
        stored = (file.metadata() or {}).get(FORMAT)
        if stored is None:
            raise ValueError(f"its header has no {FORMAT!r}: another version or program wrote it")
        header = json.loads(stored)
        if header["fingerprint"] != fingerprint:
            raise ValueError("it was written by a training with other parameters, data or code")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    seen, skipped, in_a_row = (int(header[key]) for key in ("images_seen", "nonfinite_steps", "nonfinite_in_a_row"))
    return _Content(seen, skipped, in_a_row, header["extra"], tensors)


def _require_fit(content: _Content, state: State) -> None:
    """Raise ValueError unless the names, shapes and types of the tensors are exactly those of the state."""
    parts = {"network.": state.network.state_dict(), "ema.": state.ema.network.state_dict(), "times.": state.times}
    for prefix, places in parts.items():
        if places or prefix != "times.":  # at the start, the choice of times has no tensors yet
            _require_same_layout(prefix, content.part(prefix), places)
    parameters = _parameters(state)
    for index, moments in _moments(content).items():
        if index >= len(parameters) or set(moments) not in _MOMENTS:
            raise ValueError(f"optimizer.{index} has {sorted(moments)}, which this optimizer does not use")
        shape = parameters[index].shape
        if any(value.shape != shape for name, value in moments.items() if name != "step"):
            raise ValueError(
                f"optimizer.{index} has the shape {list(moments['exp_avg'].shape)}, expected {list(shape)}"
            )


def _require_same_layout(prefix: str, tensors: dict[str, Tensor], places: dict[str, Tensor]) -> None:
    if odd := sorted(set(tensors) ^ set(places)):
        raise ValueError(f"{prefix}{odd[0]} is in the checkpoint or in the training, but not in both")
    for name, place in places.items():
        there = tensors[name]
        if (there.shape, there.dtype) != (place.shape, place.dtype):
            raise ValueError(
                f"{prefix}{name} is {there.dtype} {list(there.shape)}, expected {place.dtype} {list(place.shape)}"
            )


def _parameters(state: State) -> list[Parameter]:
    """Return the parameters in the order of the optimizer, by which their moments are numbered."""
    return [p for group in state.optimizer.param_groups for p in group["params"]]


def _moments(content: _Content) -> dict[int, dict[str, Tensor]]:
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in content.part("optimizer.").items():
        index, key = name.split(".")
        moments.setdefault(int(index), {})[key] = value
    return moments


def _put(content: _Content, state: State) -> None:
    for network, name in ((state.network, "network."), (state.ema.network, "ema.")):
        own = network.state_dict()
        network.load_state_dict({k: placed_like(value, own[k]) for k, value in content.part(name).items()})
    parameters = _parameters(state)
    moments = {
        index: {key: value if key == "step" else placed_like(value, parameters[index]) for key, value in held.items()}
        for index, held in _moments(content).items()
    }
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    state.times = content.part("times.")
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
