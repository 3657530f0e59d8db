"""The memory that a stage may still take, on a device or on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_GROUPS = Path("/sys/fs/cgroup")


def free_bytes(device: "torch.device") -> int:
    """Return the free memory of a GPU; for other devices, that of this machine within the limits of its cgroup."""
    import psutil
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([psutil.virtual_memory().available, *_free_in_groups(Path("/proc/self/cgroup"), _GROUPS)])


def _free_in_groups(own: Path, root: Path) -> list[int]:
    """Return the free memory of the cgroup of this process and of each one above it that has a limit.

    `own` is the process's list of cgroups; it is missing where the system has none. Memory of files that can be
    dropped counts as free.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    free = []
    for _, controllers, path in lines:
        if controllers == "memory":
            free += _free_above(root / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes")
        elif controllers == "":
            free += _free_above(root, path, "memory.max", "memory.current")
    return free


def _free_above(root: Path, path: str, limit: str, usage: str) -> list[int]:
    inside = root / path.strip("/")
    free = []
    for group in (inside, *inside.parents):
        if not group.is_relative_to(root):
            break
        try:
            most, used = (group / limit).read_text().strip(), int((group / usage).read_text())
            dropped = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue  # the container shows other groups than the list names
        if most.isdigit():
            free.append(max(0, int(most) - used + int(dropped.get("inactive_file", 0))))
    return free
