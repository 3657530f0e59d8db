"""Which process does a piece of work: recorded when the work starts, and looked up later to see whether it still runs.

A pid alone is not enough, because the system gives a free pid to another process, and because a pid means nothing on
another machine or in another container.
"""

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psutil

Fate = Literal["lives", "ended", "restarted", "unknown"]
"""lives: the process runs; ended: it ended or was killed; restarted: its machine has been restarted since; unknown: it
belongs to another machine or container, where this process cannot look it up."""
_FIRST_NAMESPACE = "pid:[4026531836]"
"""The PID namespace of Linux itself, outside of all containers; it has this number on every machine."""


@dataclass(frozen=True)
class ProcessIdentity:
    """A process: `ticks` is its start as the system counts it, `started` the same for people."""

    pid: int
    ticks: str
    started: str
    host: str
    machine: str
    place: str

    @staticmethod
    def of(pid: int | None = None) -> "ProcessIdentity":
        """Describe a process of this machine, by default this one. Raises psutil.NoSuchProcess if there is none."""
        process = psutil.Process(pid)
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(process.create_time()))
        return ProcessIdentity(process.pid, _ticks(process), started, platform.node(), _machine(), place())

    @staticmethod
    def read(values: Mapping[str, Any]) -> "ProcessIdentity | None":
        """Return the identity that `record` gave; None if the values are not complete."""
        names = ProcessIdentity.__dataclass_fields__
        try:
            pid = int(values["pid"])
            return ProcessIdentity(pid=pid, **{name: str(values[name]) for name in names if name != "pid"})
        except (KeyError, TypeError, ValueError):
            return None

    def record(self) -> dict[str, str | int]:
        return asdict(self)

    def fate(self) -> Fate:
        if self.place == place():
            return "lives" if self._lives() else "ended"
        boot, _, namespace = self.place.partition(" ")
        own_boot, _, own_namespace = place().partition(" ")
        same_machine = bool(self.machine) and (self.machine, self.host) == (_machine(), platform.node())
        if same_machine and boot != own_boot and namespace == own_namespace == _FIRST_NAMESPACE:
            return "restarted"
        return "unknown"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, started {self.started}"

    def _lives(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return _ticks(process) == self.ticks and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True


@cache
def place() -> str:
    """Return where a pid is valid: on Linux the boot of this machine and the PID namespace, else the machine's name.

    A container has its own PID namespace.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _ticks(process: psutil.Process) -> str:
    """Return the start of a process as text that does not change when the machine's clock is set.

    On Linux these are clock ticks since the boot (field 22 of /proc/PID/stat).
    """
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[19]
    except FileNotFoundError:
        return f"{process.create_time():.0f}"
    except ProcessLookupError:
        raise psutil.NoSuchProcess(process.pid) from None


@cache
def _machine() -> str:
    """Return the number that an installation of Linux has for life; empty where there is none."""
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""
