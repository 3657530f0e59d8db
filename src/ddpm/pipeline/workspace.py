"""The workspace (the working folder): which process may run stages in it, and the end of a stage without a launcher.

The workspace has one owner, which is a launcher and not a stage: a flow, or the `dvc` that a person started. The owner
locks `.state/pipeline.lock` from its first stage to its end. A stage locks `.state/stage.lock` from its start to its
end, which includes the time in which it saves its work after its launcher has died. Both are locked by flock, which
works between containers, where a pid has no meaning, and which ends with the processes that hold the lock. The text in
the file only describes the holder.

When dvc is killed, its stage keeps running. A stage therefore watches the processes between itself and the owner, and
ends when one of them has died.
"""

import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, NoReturn

import psutil

from ddpm.compute import processes
from ddpm.compute.waiting import wait_briefly
from ddpm.errors import UnreachableError, UserError
from ddpm.files import disk_trouble
from ddpm.pipeline.process_identity import place
from ddpm.redaction import redacted, redacted_output

LOCK = Path(".state/pipeline.lock")
STAGE_LOCK = Path(".state/stage.lock")
LAUNCHER_VARIABLE = "DDPM_LAUNCHER"
"""Environment variable with the pid of the flow that started a stage."""
POLL_SECONDS = 0.5
GRACE_SECONDS = 20.0
"""Time that a stage has to save its work after SIGTERM before it is killed."""
TRY_AGAIN = 75
"""Exit status of a stage that may succeed later, because a server did not answer: EX_TEMPFAIL of sysexits.h."""


class InUseError(UserError):
    """Another process owns the workspace."""


@dataclass(frozen=True)
class _Holder:
    """The process that holds a lock, as the lock's file describes it. The pid is valid only in its `place`."""

    pid: int
    what: str
    since: str
    host: str
    place: str

    @staticmethod
    def of(pid: int, what: str) -> "_Holder":
        since = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        return _Holder(pid, what, since, platform.node(), place())

    @staticmethod
    def read(path: Path) -> "_Holder | None":
        """Return None if the file has no valid content, for example because the holder has not written it yet."""
        try:
            holder = _Holder(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return holder if isinstance(holder.pid, int) else None

    def is_here(self) -> bool:
        """Return whether the holder is on this machine and in this PID namespace, so that its pid can be looked up."""
        return self.place == place()


@contextmanager
def claim(what: str) -> Iterator[None]:
    """Own the workspace (the working folder) inside the block; processes that are refused report the owner as `what`.

    A block inside a block, in the same process or in a child of the owner, changes nothing.
    Waits for a stage that has lost its launcher and is ending.
    Raises InUseError, which names the owner, while another process owns the workspace.
    """
    with ExitStack() as held:
        _, file = _own_or_share(os.getpid(), what)
        if file:
            held.enter_context(file)
        _lock_for_stage(what).close()
        yield


def in_use() -> str | None:
    """Return a sentence about the process that owns the workspace or the stage that runs in it; None if it is free.

    Changes nothing, not even the lock's file.
    """
    for path in (LOCK, STAGE_LOCK):
        try:
            with path.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            continue
        except OSError:
            return _refusal(path, _Holder.read(path))
    return None


def launcher_environment() -> dict[str, str]:
    """Return what a flow adds to the environment of `dvc`, so that a stage that starts after the flow's death ends."""
    return {LAUNCHER_VARIABLE: str(os.getpid())}


def command_of(pid: int) -> list[str]:
    """Return the command line as a person types it: without the interpreter and the folder of the program.

    Empty if there is no such process or it belongs to another user.
    """
    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        return []
    if len(words) > 1 and Path(words[0]).name.lower().startswith("python"):
        words = words[1:]
        while len(words) > 1 and words[0].startswith("-"):
            words = words[1:]
    return [Path(words[0]).name, *words[1:]] if words else []


def run_stage(main: Callable[[], None]) -> NoReturn:
    """Run a stage's `main` as owner of the workspace or on behalf of its owner, and exit.

    The exit status is 0 after success; 1 with `error: <sentence>` on stderr after a UserError, or TRY_AGAIN after an
    UnreachableError; 1 with the traceback and `error: <type>: <message>` after any other exception; 130 after SIGINT.
    Credentials are removed from all output.
    """
    wait_briefly(os.environ)  # read when `main` imports torch
    _buffer_lines()
    with redacted_output():
        sys.exit(_status_of(main))


def _status_of(main: Callable[[], None]) -> int:
    try:
        _enter()
        main()
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        _close_progress_bars(error)
        if correctable := error if isinstance(error, UserError) else disk_trouble(error, below=Path.cwd()):
            print(f"error: {correctable}", file=sys.stderr)
            return TRY_AGAIN if isinstance(correctable, UnreachableError) else 1
        traceback.print_exc()
        sentence = " ".join(str(error).split())
        print(f"error: {type(error).__name__}: {sentence}", file=sys.stderr)
        return 1
    return 0


def _buffer_lines() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _close_progress_bars(error: Exception) -> None:
    """Clear the frames of the error, which ends the lines of open progress bars there."""
    traceback.clear_frames(error.__traceback__)


def _enter() -> None:
    """Take or share the workspace, and watch the launcher from now on."""
    me, above = psutil.Process(), psutil.Process().parents()
    _refuse_without_launcher(me, above)
    if processes.is_worker() and (processes.LAUNCHER_VARIABLE in os.environ or not processes.leads()):
        _start_watch(above[:1])  # the stage that launched this worker, or else rank 0, has the locks
        return
    candidate = next((each.pid for each in above if command_of(each.pid)[:1] == ["dvc"]), me.pid)
    owner, file = _own_or_share(candidate, _describe(candidate))
    if file:
        _held_to_the_end.append(file)
        if owner != me.pid:
            _keep(file, owner)
    _held_to_the_end.append(_lock_for_stage(_describe(me.pid)))
    pids = [each.pid for each in above]
    # If the owner or the launcher has died in the meantime, the watch notices it at once. The launcher is no longer the
    # owner then: this stage has just taken its lock.
    watched = {owner, int(os.environ.get(LAUNCHER_VARIABLE, owner))}
    last = max((pids.index(pid) for pid in watched if pid in pids), default=processes.is_worker() - 1)
    _start_watch(above[: last + 1])


_held_to_the_end: list[IO[str]] = []
"""Files that a stage keeps locked until its process ends."""


def _keep(file: IO[str], owner: int) -> None:
    """Start a process that keeps the lock between the stages of an owner that does not know it, which is dvc."""
    subprocess.Popen(
        [sys.executable, "-m", "ddpm.pipeline.keeper", str(owner)],
        pass_fds=[file.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # otherwise Ctrl-C could end it before the owner
    )


def _refuse_without_launcher(me: psutil.Process, above: list[psutil.Process]) -> None:
    """Raise UserError if the launcher has ended already; imports before this check take seconds.

    Comparing pids is enough: the process that adopts an orphan existed before the launcher and has another pid.
    """
    for variable, what in ((LAUNCHER_VARIABLE, "flow"), (processes.LAUNCHER_VARIABLE, "launcher")):
        launcher = os.environ.get(variable)
        if launcher and int(launcher) not in [each.pid for each in above]:
            raise UserError(f"the {what} that started this stage has ended; start the {what} again")
    # dvc starts a stage in its own process group; the process that adopts an orphan is in another group.
    stage, *rest = [me, *above][processes.is_worker() :]
    if "DVC_STAGE" in os.environ and (not rest or _group(rest[0].pid) != _group(stage.pid)):
        raise UserError("the dvc that started this stage has ended; start dvc again")


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _own_or_share(candidate: int, what: str) -> tuple[int, IO[str] | None]:
    """Return the pid of the workspace's owner, and the locked file if `candidate` became the owner now.

    The owner is `candidate`, unless this process or one of its ancestors already owns the workspace.

    Raises InUseError while an unrelated process owns the workspace. Waits for an owner that is about to end.
    """
    family = [os.getpid(), *(each.pid for each in psutil.Process().parents())]
    deadline = time.monotonic() + GRACE_SECONDS + 5
    while not (file := _lock(LOCK, candidate, what)):
        holder = _Holder.read(LOCK)
        if holder and holder.is_here() and holder.pid in family:
            return holder.pid, None
        if time.monotonic() > deadline or (holder and (not holder.is_here() or _lives(holder.pid))):
            raise InUseError(_refusal(LOCK, holder))
        time.sleep(POLL_SECONDS)
    return candidate, file


def _lock_for_stage(what: str) -> IO[str]:
    """Lock the stage's file. Wait for a stage that has lost its launcher and saves its work; then raise InUseError."""
    deadline = time.monotonic() + GRACE_SECONDS + 5
    while not (file := _lock(STAGE_LOCK, os.getpid(), what)):
        if time.monotonic() > deadline:
            raise InUseError(_refusal(STAGE_LOCK, _Holder.read(STAGE_LOCK)))
        time.sleep(POLL_SECONDS)
    return file


def _lock(path: Path, holder: int, what: str) -> IO[str] | None:
    """Lock a file and write its holder into it; return None while another process has locked it.

    The lock ends when every process that has inherited the open file has closed it. Raises UserError on a disk without
    locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _opened(path)
    except OSError as error:
        raise UserError(
            f"{path.absolute()} cannot be opened as a lock ({error.strerror}), so two pipelines could write at the "
            "same time; remove what is there, or correct its permissions"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        file.close()
        raise UserError(
            f"{path.absolute()} cannot be locked ({error.strerror}), so two pipelines could write at the same time; "
            "mount this disk with locks that work for all its users, or move the project to another disk"
        ) from None
    file.truncate(0)
    file.write(json.dumps(asdict(_Holder.of(holder, what))) + "\n")
    file.flush()
    return file


def _opened(path: Path) -> IO[str]:
    """Open a file that is about to be emptied: neither through a link, nor a pipe, for which `open` would wait."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "a")


def _refusal(path: Path, holder: _Holder | None) -> str:
    if holder is None:
        return f"{Path.cwd()} is in use by an unknown process; find it with `fuser {path}`"
    used = f"{Path.cwd()} is in use by {holder.what}"
    if holder.is_here():
        pid = holder.pid
        return f"{used} (process {pid}, since {holder.since}); wait until it ends, or end it: kill {pid}"
    return (
        f"{used} (process {holder.pid} of another container or machine, {holder.host}, since {holder.since}); wait "
        f"until it ends, or end it there, and delete {path} only if that machine does not exist any more"
    )


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _describe(pid: int) -> str:
    return f"`{textwrap.shorten(redacted(' '.join(command_of(pid))), 60, placeholder=' …')}`"


def _start_watch(chain: list[psutil.Process]) -> None:
    threading.Thread(target=_watch, args=(chain,), daemon=True, name="launcher-watch").start()


def _watch(chain: list[psutil.Process]) -> None:
    """End this process when its launcher has died: by SIGTERM, after which training saves, then by force."""
    while all(process.is_running() and _lives(process.pid) for process in chain):
        time.sleep(POLL_SECONDS)
    with suppress(OSError):  # the reader of our output may have died with the launcher
        print("the process that started this stage has ended, so the stage ends too", file=sys.stderr)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        _kill_children()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    _kill_children()
    os._exit(128 + signal.SIGTERM)


def _kill_children() -> None:
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
