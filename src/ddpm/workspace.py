"""Who may run stages in this folder, and what happens to a stage whose launcher dies.

One lock stands for the whole workspace. Its owner is the top-level launcher, not a stage: a flow, or the
`dvc` that a person typed, holds the folder from its first stage to its end. The owner is named in
`.state/pipeline.lock` by pid and creation time; a dead owner is no owner, so nothing needs cleaning up.

DVC leaves a stage running when dvc itself is killed. A stage therefore watches the processes between it
and the owner, and ends when one of them has died.
"""

import fcntl
import json
import os
import signal
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import psutil

from ddpm import distributed
from ddpm.errors import UserError

LOCK = Path(".state/pipeline.lock")
LAUNCHER_VARIABLE = "DDPM_LAUNCHER"
"""Environment variable by which a flow tells its stages who started them."""
POLL_SECONDS = 0.5
GRACE_SECONDS = 20.0
"""How long a stage may take to save its work after SIGTERM, before it is killed."""
_CLOCK_TOLERANCE_SECONDS = 2.0
"""Creation times are counted from the boot time, which moves when the system clock is corrected."""


class InUseError(UserError):
    """Somebody else works in this folder."""


@dataclass(frozen=True)
class _Identity:
    """A process, told apart from a later one with the same pid by when it was created."""

    pid: int
    create_time: float

    @staticmethod
    def of(process: psutil.Process) -> "_Identity":
        return _Identity(process.pid, process.create_time())

    def process(self) -> psutil.Process | None:
        """The process while it lives; None when it has ended (a zombie has)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.create_time) < _CLOCK_TOLERANCE_SECONDS
            return process if same and _is_alive(process) else None
        except psutil.NoSuchProcess:
            return None


@dataclass(frozen=True)
class _Lock:
    """The content of the lock file: the owner, and the stage that runs or ran last on its behalf."""

    owner: _Identity
    what: str
    since: str
    stage: _Identity | None

    def write(self) -> None:
        part = LOCK.with_suffix(".part")
        part.write_text(json.dumps(asdict(self)) + "\n")
        part.replace(LOCK)

    @staticmethod
    def read() -> "_Lock | None":
        try:
            read = json.loads(LOCK.read_text())
            stage = read["stage"]
            return _Lock(
                owner=_Identity(**read["owner"]),
                what=read["what"],
                since=read["since"],
                stage=_Identity(**stage) if stage else None,
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{LOCK.absolute()} does not say who uses this folder; delete it if no pipeline runs here"
            ) from None


@contextmanager
def claim(what: str) -> Iterator[None]:
    """This process owns the workspace (the current folder) inside the block; `what` is told to whom it keeps out.

    A block within a block, in the same process or in a child of the owner, changes nothing.
    Raises InUseError, naming the owner, while another process owns it.
    """
    me = psutil.Process()
    taken = _take(candidate=me, what=what, stage=None)
    try:
        yield
    finally:
        if taken:
            _release(me)


def launcher_environment() -> dict[str, str]:
    """What a flow adds to the environment of `dvc`, so that a stage that starts after its death ends at once."""
    me = psutil.Process()
    return {LAUNCHER_VARIABLE: f"{me.pid}:{me.create_time()}"}


def run_stage(main: Callable[[], None]) -> NoReturn:
    """Run a stage's `main` as owner of the workspace or on behalf of its owner, and exit.

    Exit status 0 after success; 1 with `error: <sentence>` on stderr after a UserError, and with the traceback
    and `error: <type>: <message>` after any other exception; 130 after SIGINT.
    """
    # torch's threads wait for each other by spinning, which beside any other busy process makes a step up to
    # thirty times slower; alone it gains next to nothing. Read when torch is imported, which `main` does.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _buffer_lines()
    status = 0
    try:
        _enter()
        main()
    except UserError as error:
        _close_progress_bars(error)
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    except Exception as error:
        _close_progress_bars(error)
        traceback.print_exc()
        sentence = " ".join(str(error).split())
        print(f"error: {type(error).__name__}: {sentence}", file=sys.stderr)
        status = 1
    sys.exit(status)


def _buffer_lines() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _close_progress_bars(error: Exception) -> None:
    """Those in the frames that failed end their line when the frames are cleared, so that the error has its own."""
    traceback.clear_frames(error.__traceback__)


def _enter() -> None:
    """Take or share the workspace, and watch the launcher from here on."""
    me = psutil.Process()
    ancestors = me.parents()
    # Workers of one stage share the folder: for it, their launcher is the stage.
    stage = ancestors[0] if distributed.is_worker() and ancestors else me
    _refuse_without_launcher(stage, ancestors)
    candidate = next((process for process in ancestors if _is_dvc(process)), stage)
    _take(candidate=candidate, what=_describe(candidate), stage=stage)
    lock = _Lock.read()
    assert lock is not None
    owner = lock.owner.process()
    # The owner may have died between the two lines; then the first look of the watch finds it gone.
    chain = ancestors[: ancestors.index(owner) + 1] if owner in ancestors else []
    if owner is None or chain:
        threading.Thread(target=_watch, args=(chain, lock.owner), daemon=True, name="launcher-watch").start()


def _refuse_without_launcher(stage: psutil.Process, ancestors: list[psutil.Process]) -> None:
    """A stage can outlive its launcher before it gets here: imports take seconds."""
    above = ancestors[ancestors.index(stage) + 1 :] if stage in ancestors else ancestors
    for variable, what in ((LAUNCHER_VARIABLE, "flow"), (distributed.LAUNCHER_VARIABLE, "launcher")):
        if launcher := os.environ.get(variable):
            pid, create_time = launcher.split(":")
            if _Identity(int(pid), float(create_time)).process() not in ancestors:
                raise UserError(f"the {what} that started this stage has ended; start the {what} again")
    # dvc starts a stage in its own process group; whoever adopts an orphan belongs to another.
    if "DVC_STAGE" in os.environ and (not above or _group(above[0].pid) != _group(stage.pid)):
        raise UserError("the dvc that started this stage has ended; start dvc again")


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _take(*, candidate: psutil.Process, what: str, stage: psutil.Process | None) -> bool:
    """Make `candidate` the owner, or go on under an owner that is this process or one of its ancestors.

    True when `candidate` became the owner here. Waits for a stage that has lost its launcher and is ending.
    Raises InUseError while an unrelated process owns the workspace.
    """
    me = psutil.Process()
    family = [me, *me.parents()]
    deadline = time.monotonic() + GRACE_SECONDS + 5
    while True:
        with _guard():
            lock = _Lock.read()
            owner = lock.owner.process() if lock else None
            running = lock.stage.process() if lock and lock.stage else None
            if lock and owner and owner not in family:
                raise InUseError(_refusal(lock.what, pid=owner.pid, since=lock.since))
            if running is None or running in family:
                if lock and owner:
                    replace(lock, stage=_Identity.of(stage) if stage else None).write()
                    return False
                since = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
                new = _Lock(_Identity.of(candidate), what, since, _Identity.of(stage) if stage else None)
                new.write()
                return True
        if time.monotonic() > deadline:
            assert lock is not None
            raise InUseError(_refusal(f"a stage of {lock.what}", pid=running.pid, since=lock.since))
        time.sleep(POLL_SECONDS)


def _refusal(what: str, *, pid: int, since: str) -> str:
    return f"{Path.cwd()} is in use by {what} (process {pid}, since {since}); wait until it ends, or end it: kill {pid}"


def _release(me: psutil.Process) -> None:
    with _guard():
        lock = _Lock.read()
        if lock and lock.owner.process() == me:
            LOCK.unlink()


@contextmanager
def _guard() -> Iterator[None]:
    """Held for the moment in which the lock file is read and written, never longer."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.with_suffix(".guard").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_dvc(process: psutil.Process) -> bool:
    return _command(process)[:1] == ["dvc"]


def _describe(process: psutil.Process) -> str:
    return f"`{textwrap.shorten(' '.join(_command(process)), 60, placeholder=' …')}`"


def _command(process: psutil.Process) -> list[str]:
    """The command line as a person typed it: without the interpreter and the folder of the program."""
    try:
        words = process.cmdline()
    except psutil.Error:  # ended meanwhile, or another user's
        return []
    if len(words) > 1 and Path(words[0]).name.lower().startswith("python"):
        words = words[1:]
        while len(words) > 1 and words[0].startswith("-"):
            words = words[1:]
    return [Path(words[0]).name, *words[1:]] if words else []


def _watch(chain: list[psutil.Process], owner: _Identity) -> None:
    """End this process when its launcher has died: first SIGTERM, on which training saves, then by force."""
    while owner.process() is not None and all(_is_alive(process) for process in chain):
        time.sleep(POLL_SECONDS)
    with suppress(OSError):  # whoever read our output may have died with the launcher
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
