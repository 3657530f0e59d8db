"""`python -m ddpm.pipeline.running_list`: remove DVC's list of running stages if it prevents every dvc from starting.

A dvc that is killed leaves its stages on the list, and a dvc that is interrupted while it writes leaves an incomplete
list. DVC removes only entries whose pid is free: an entry whose pid now belongs to another process blocks it forever.
"""

import fcntl
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ddpm.errors import UserError

LIST = Path(".dvc/tmp/rwlock")
_LOCKS_OF_DVC = (Path(".dvc/tmp/lock"), Path(".dvc/tmp/rwlock.lock"))


def mend(report: Callable[[str], None]) -> None:
    """Remove the working folder's list if it is incomplete or no process on it runs; `report` gets one sentence.

    Nothing is removed while a process works in the folder, or if psutil is not installed: such an environment has no
    dvc and cannot look up processes.
    """
    if find_spec("psutil") is None or not fault():
        return
    with _exclusive_use() as alone:
        if alone and (found := fault()):
            LIST.unlink(missing_ok=True)
            report(f"{LIST} {found}; it was removed, and dvc writes a new one")


def fault() -> str | None:
    """Return what is wrong with the list, as the end of a sentence; None if nothing is."""
    try:
        listed = json.loads(LIST.read_text())
        entries = [*_values(listed, "write"), *(each for readers in _values(listed, "read") for each in readers)]
        running = [_runs(int(each["pid"]), str(each["cmd"])) for each in entries]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError):
        return "was left incomplete by a dvc that was interrupted"
    return "names only stages whose dvc has ended" if entries and not any(running) else None


def _values(listed: dict[str, dict[str, Any]], kind: str) -> list[Any]:
    return list(dict(listed).get(kind, {}).values())


def _runs(pid: int, command: str) -> bool:
    """Return whether the process with this pid wrote the entry; `command` is its command line without `python`."""
    import psutil

    try:
        process = psutil.Process(pid)
        return " ".join(process.cmdline()).endswith(command) or _is_dvc_here(process)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # another user's process, which may be a dvc
        return True


def _is_dvc_here(process: Any) -> bool:
    """Return whether the process is a dvc in the working folder. Raises psutil.Error if access to it is denied."""
    from ddpm.pipeline.workspace import command_of

    return command_of(process.pid)[:1] == ["dvc"] and Path(process.cwd()).is_relative_to(Path.cwd())


@contextmanager
def _exclusive_use() -> Iterator[bool]:
    """Yield whether this process alone uses the folder: no dvc runs in it, and none can start inside the block."""
    import psutil

    from ddpm.pipeline.workspace import claim

    with ExitStack() as held:
        alone = False
        with suppress(OSError, UserError):
            for path in _LOCKS_OF_DVC:
                if path.exists():  # if DVC is configured to lock by links, an existing file is a lock in use
                    fcntl.flock(held.enter_context(path.open("r+")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.enter_context(claim(f"a check of {LIST}"))
            alone = not any(map(_may_be_dvc_here, psutil.process_iter()))
        yield alone


def _may_be_dvc_here(process: Any) -> bool:
    import psutil

    try:
        return _is_dvc_here(process)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


if __name__ == "__main__":
    mend(lambda sentence: print(sentence, file=sys.stderr))
