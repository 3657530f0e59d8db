"""Tells a process from a later one with the same pid, also where the system clock was changed in between."""

import os
import platform
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

_CLOCK_TOLERANCE_SECONDS = 60.0
"""Outside Linux a start is a time of day, which moves when the clock is corrected."""


@dataclass(frozen=True)
class Identity:
    """A process. Its pid means something in its `place` alone."""

    pid: int
    started: float
    """On Linux in clock ticks since the machine's start, elsewhere in seconds since 1970."""
    place: str
    """The start of the machine and, on Linux, the PID namespace: a container has its own."""

    @staticmethod
    def of(pid: int) -> "Identity":
        """Raises psutil.NoSuchProcess where there is no such process here."""
        return Identity(pid, _started(pid), _place())

    @staticmethod
    def parse(text: str) -> "Identity":
        """The opposite of `str`."""
        pid, started, place = text.split(":", 2)
        return Identity(int(pid), float(started), place)

    def __str__(self) -> str:
        return f"{self.pid}:{self.started}:{self.place}"

    def is_here(self) -> bool:
        """Whether this process could see it if it lives."""
        return self.place == _place()

    def is_alive(self) -> bool:
        """Whether it is here and has not ended; a zombie has."""
        if not self.is_here():
            return False
        try:
            return abs(_started(self.pid) - self.started) <= (0 if _ON_LINUX else _CLOCK_TOLERANCE_SECONDS)
        except psutil.NoSuchProcess:
            return False


def ancestors() -> list[Identity]:
    """This process's parent, its parent, …; without those that have ended."""
    found = []
    for process in psutil.Process().parents():
        with suppress(psutil.NoSuchProcess):
            found.append(Identity.of(process.pid))
    return found


_ON_LINUX = sys.platform == "linux"


def _started(pid: int) -> float:
    """Raises NoSuchProcess, for a zombie too."""
    if not _ON_LINUX:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            raise psutil.NoSuchProcess(pid)
        return process.create_time()
    # psutil would add the time of the machine's start, which moves with the clock. The name, in parentheses, may hold
    # anything; behind it stand the state and, as the 22nd field of all, the start (man 5 proc_pid_stat).
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        raise psutil.NoSuchProcess(pid) from None
    if fields[0] in "ZX":
        raise psutil.NoSuchProcess(pid)
    return float(fields[19])


@cache
def _place() -> str:
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    with suppress(OSError):
        macos = subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True)
        if macos.returncode == 0:
            return macos.stdout.strip()
    return platform.node()
