"""`python -m ddpm.pipeline.running_list`: removes DVC's list of running stages where it keeps every dvc from starting.

A dvc that is killed leaves its stages on the list, and one that is interrupted while it writes leaves half a list. DVC
itself strikes off only what has a pid that is free, so a pid that means another process now stops it for ever.
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
_DVCS_LOCKS = (Path(".dvc/tmp/lock"), Path(".dvc/tmp/rwlock.lock"))


def mend(report: Callable[[str], None]) -> None:
    """Remove the current folder's list if it is torn or names nothing that runs, and nobody works here; say so.

    The list stays where psutil is not installed: this environment has no dvc, and cannot tell who runs.
    """
    if find_spec("psutil") is None or not _fault():
        return
    with _nobody_else_at_work() as alone:
        if alone and (fault := _fault()):
            LIST.unlink(missing_ok=True)
            report(f"{LIST} {fault}; it was removed, since dvc makes it anew")


def _fault() -> str | None:
    try:
        listed = json.loads(LIST.read_text())
        named = [*_values(listed, "write"), *(each for readers in _values(listed, "read") for each in readers)]
        running = [_runs(int(each["pid"]), str(each["cmd"])) for each in named]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError):
        return "was torn by a dvc that was interrupted"
    return "names only stages whose dvc has ended" if named and not any(running) else None


def _values(listed: dict[str, dict[str, Any]], kind: str) -> list[Any]:
    return list(dict(listed).get(kind, {}).values())


def _runs(pid: int, command: str) -> bool:
    """Whether the process with this pid is the one that wrote `command`, its words after Python's own, on the list."""
    import psutil

    try:
        process = psutil.Process(pid)
        return " ".join(process.cmdline()).endswith(command) or _is_dvc_here(process)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # not ours to look at
        return True


def _is_dvc_here(process: Any) -> bool:
    """Raises psutil.Error where it may not be looked at."""
    from ddpm.pipeline.workspace import command_of

    return command_of(process.pid)[:1] == ["dvc"] and Path(process.cwd()).is_relative_to(Path.cwd())


@contextmanager
def _nobody_else_at_work() -> Iterator[bool]:
    """Whether the workspace is free or ours, no dvc works in this folder, and none begins to inside the block."""
    import psutil

    from ddpm.pipeline.workspace import claim

    with ExitStack() as held:
        alone = False
        with suppress(OSError, UserError):
            for path in _DVCS_LOCKS:
                if path.exists():  # where DVC locks by links instead, a file of this name is a lock that is taken
                    fcntl.flock(held.enter_context(path.open("r+")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.enter_context(claim(f"a look at {LIST}"))
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
