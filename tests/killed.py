"""Work in a process of its own that is killed (SIGKILL) before one of its changes to a database or to a file."""

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHANGES_A_FILE = ("os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Answer:
    """What became of the work: its result, the sentence of its UserError, or neither because it was killed."""

    result: Any = None
    refused: str | None = None
    was_killed: bool = False


def in_process(work: Callable[[], Any], *, folder: Path, kill_after: int | None = None, half: bool = False) -> Answer:
    """Call `work` in a fork of this process, and return what became of it.

    The fork is killed after `kill_after` changes: SQL statements that write, commits, and files in `folder` that are
    opened for writing, renamed, emptied or removed. With `half`, a file that was just opened is left with half of its
    content. An error other than UserError fails the test.
    """
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reading)
        os.write(writing, pickle.dumps(_answer(work, folder, kill_after, half)))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        written = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return Answer(was_killed=True)
    answer = pickle.loads(written)
    assert isinstance(answer, Answer), answer
    return answer


def _answer(work: Callable[[], Any], folder: Path, kill_after: int | None, half: bool) -> Answer | str:
    from ddpm.errors import UserError

    if kill_after is not None:
        _Killer(folder, kill_after, half).watch()
    try:
        return Answer(work())
    except UserError as error:
        return Answer(refused=str(error))
    except BaseException:
        return traceback.format_exc()


class _Killer:
    def __init__(self, folder: Path, kill_after: int, half: bool) -> None:
        self.folder, self.left, self.half = str(folder), kill_after, half
        self.opened: str | None = None

    def watch(self) -> None:
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        def execute(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if not statement.lstrip().upper().startswith(("SELECT", "PRAGMA")):
                self.change(None)

        event.listen(Engine, "before_cursor_execute", execute)
        event.listen(Engine, "commit", lambda _: self.change(None))
        sys.addaudithook(self.heard)

    def heard(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "open" and not isinstance(arguments[0], int):
            path, mode, flags = arguments
            if ((mode and set(mode) & set("wax+")) or (not mode and flags & _WRITES)) and self.counts(path):
                self.change(os.fspath(path))
        if name in _CHANGES_A_FILE and self.counts(arguments[0]):
            self.change(None)

    def counts(self, path: Any) -> bool:
        if isinstance(path, int):
            return True
        path = os.fsdecode(path)
        return path.startswith(self.folder) or not os.path.isabs(path)

    def change(self, opened: str | None) -> None:
        if self.left == 0:
            self.left = -1  # what follows is no change of the work
            if self.half and self.opened and os.path.isfile(self.opened):
                os.truncate(self.opened, os.path.getsize(self.opened) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        self.opened = opened
