"""A training's whole state in one safetensors file, written so that a kill at any moment loses at most an interval."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddpm.distributed import leads
from ddpm.training.distributed import placed_like, whole
from ddpm.training.loop import State

FORMAT = "ddpm-checkpoint-1"
KEPT = 2


def save(folder: Path, state: State, *, fingerprint: str, extra: dict[str, Any]) -> Path:
    """Writes `checkpoint-<images seen>.safetensors` aside, flushes, renames, and drops all but the last two.

    `extra` is plain data that belongs to the position: curves so far, the tracker's run.
    Every process must call it, since a sharded state is gathered; rank 0 alone writes.
    """
    tensors = _tensors(state)
    path = folder / f"checkpoint-{state.images_seen:012d}.safetensors"
    if not leads():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    header = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "images_seen": str(state.images_seen),
        "nonfinite_steps": str(state.nonfinite_steps),
        "extra": json.dumps(extra),
    }
    save_file(tensors, aside, header)
    with open(aside, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(aside, path)
    folder_handle = os.open(folder, os.O_RDONLY)
    os.fsync(folder_handle)  # makes the rename itself durable
    os.close(folder_handle)
    for old in sorted(folder.glob("checkpoint-*.safetensors"))[:-KEPT]:
        old.unlink()
    return path


def restore(folder: Path, state: State, *, fingerprint: str) -> tuple[dict[str, Any] | None, list[str]]:
    """Puts the newest usable checkpoint into `state`.

    Returns its `extra`, or None when there is none to use, and one sentence for every checkpoint that was refused.
    """
    refused: list[str] = []
    for path in sorted(folder.glob("checkpoint-*.safetensors"), reverse=True):
        try:
            return _read(path, state, fingerprint), refused
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            refused.append(f"{path.name} was refused ({error}); the one before it is used instead")
    return None, refused


def _tensors(state: State) -> dict[str, Tensor]:
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in state.ema.network.state_dict().items()}
    tensors |= {f"times.{name}": value for name, value in state.times.items()}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    return {name: whole(tensor.detach()).cpu().contiguous() for name, tensor in tensors.items()}


def _read(path: Path, state: State, fingerprint: str) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        if header.get("format") != FORMAT:
            raise ValueError(f"format {header.get('format')!r}, expected {FORMAT!r}")
        if header["fingerprint"] != fingerprint:
            raise ValueError("written by a training with other parameters, data or code")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    for network, name in ((state.network, "network."), (state.ema.network, "ema.")):
        own = network.state_dict()
        values = part(name)
        network.load_state_dict({k: placed_like(value, own[k]) if k in own else value for k, value in values.items()})
    parameters = list(state.network.parameters())
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in part("optimizer.").items():
        index, key = name.split(".")
        placed = value if key == "step" else placed_like(value, parameters[int(index)])
        moments.setdefault(int(index), {})[key] = placed
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    state.times = part("times.")
    state.images_seen = int(header["images_seen"])
    state.nonfinite_steps = int(header["nonfinite_steps"])
    return json.loads(header["extra"])


def clear(folder: Path) -> None:
    """Removes a training's checkpoints, once its model is written."""
    for path in folder.glob("checkpoint-*"):
        path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def fingerprint(parts: dict[str, Any]) -> str:
    """What a training is a function of, as one short name: 16 hex digits."""
    from hashlib import sha256

    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def code_hash(*paths: Path) -> str:
    """sha256 over Python files and all those in folders: their names and contents."""
    from hashlib import sha256

    digest = sha256()
    for place in paths:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(f"{path.relative_to(place.parent)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
