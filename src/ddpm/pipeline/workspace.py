"""Who may run stages in this folder, and what happens to a stage whose launcher dies.

One lock stands for the whole workspace. Its owner is the top-level launcher, not a stage: a flow, or the
`dvc` that a person typed, holds the folder from its first stage to its end. The owner is named in
`.state/pipeline.lock`; it and whoever works on its behalf hold `.state/pipeline.held` by flock, which also counts
between containers, where a pid says nothing. A dead owner is no owner, so nothing needs cleaning up.

DVC leaves a stage running when dvc itself is killed. A stage therefore watches the processes between it
and the owner, and ends when one of them has died.
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
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO, NoReturn

import psutil

from ddpm.compute import processes
from ddpm.compute.identity import Identity, ancestors
from ddpm.errors import UserError
from ddpm.files import disk_trouble
from ddpm.redaction import redacted, redacted_output

LOCK = Path(".state/pipeline.lock")
HELD = Path(".state/pipeline.held")
LAUNCHER_VARIABLE = "DDPM_LAUNCHER"
"""Environment variable by which a flow tells its stages who started them."""
POLL_SECONDS = 0.5
GRACE_SECONDS = 20.0
"""How long a stage may take to save its work after SIGTERM, before it is killed."""


class InUseError(UserError):
    """Somebody else works in this folder."""


@dataclass(frozen=True)
class _Lock:
    """The content of the lock file: the owner, and the stage that runs or ran last on its behalf."""

    owner: Identity
    what: str
    since: str
    host: str
    stage: Identity | None

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
                owner=Identity(**read["owner"]),
                what=read["what"],
                since=read["since"],
                host=read["host"],
                stage=Identity(**stage) if stage else None,
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
    me = Identity.of(os.getpid())
    held, taken = _take(candidate=me, what=what, stage=None)
    with held:
        try:
            yield
        finally:
            if taken:
                _release(me)


def launcher_environment() -> dict[str, str]:
    """What a flow adds to the environment of `dvc`, so that a stage that starts after its death ends at once."""
    return {LAUNCHER_VARIABLE: str(Identity.of(os.getpid()))}


def command_of(pid: int) -> list[str]:
    """The command line as a person typed it: without the interpreter and the folder of the program.

    Empty where there is no such process, or it is another user's.
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

    Exit status 0 after success; 1 with `error: <sentence>` on stderr after a UserError, and with the traceback
    and `error: <type>: <message>` after any other exception; 130 after SIGINT. Nothing of what it, the libraries or a
    traceback print holds a credential.
    """
    # torch's threads wait for each other by spinning, which beside any other busy process makes a step up to
    # thirty times slower; alone it gains next to nothing. Read when torch is imported, which `main` does.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
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
        if told := error if isinstance(error, UserError) else disk_trouble(error):
            print(f"error: {told}", file=sys.stderr)
            return 1
        traceback.print_exc()
        sentence = " ".join(str(error).split())
        print(f"error: {type(error).__name__}: {sentence}", file=sys.stderr)
        return 1
    return 0


def _buffer_lines() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _close_progress_bars(error: Exception) -> None:
    """Those in the frames that failed end their line when the frames are cleared, so that the error has its own."""
    traceback.clear_frames(error.__traceback__)


def _enter() -> None:
    """Take or share the workspace, and watch the launcher from here on."""
    me, above = Identity.of(os.getpid()), ancestors()
    # Workers of one stage share the folder: for it, their launcher is the stage.
    stage = above[0] if processes.is_worker() and above else me
    _refuse_without_launcher(stage, above)
    if not processes.beside_rank_0():  # the folder is taken on the machine that writes
        _start_watch(above[:1])
        return
    candidate = next((each for each in above if command_of(each.pid)[:1] == ["dvc"]), stage)
    held, taken = _take(candidate=candidate, what=_describe(candidate), stage=stage)
    if taken and candidate != me:
        _keep(held, candidate)
    _held_to_the_end.append(held)
    lock = _Lock.read()
    assert lock is not None
    if lock.owner != me:
        # The owner may have died since; then the first look of the watch finds it gone.
        _start_watch(above[: above.index(lock.owner) + 1] if lock.owner in above else [lock.owner])


_held_to_the_end: list[IO[str]] = []
"""What a stage keeps locked as long as its process lives."""


def _keep(held: IO[str], owner: Identity) -> None:
    """The owner is a program that knows of no lock. Between its stages, a process that is ours holds it."""
    subprocess.Popen(
        [sys.executable, "-m", "ddpm.pipeline.keeper", str(owner)],
        pass_fds=[held.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C ends it no sooner than the owner
    )


def _refuse_without_launcher(stage: Identity, above: list[Identity]) -> None:
    """A stage can outlive its launcher before it gets here: imports take seconds."""
    for variable, what in ((LAUNCHER_VARIABLE, "flow"), (processes.LAUNCHER_VARIABLE, "launcher")):
        launcher = os.environ.get(variable)
        if launcher and Identity.parse(launcher) not in above:
            raise UserError(f"the {what} that started this stage has ended; start the {what} again")
    if stage in above:
        above = above[above.index(stage) + 1 :]
    # dvc starts a stage in its own process group; whoever adopts an orphan belongs to another.
    if "DVC_STAGE" in os.environ and (not above or _group(above[0].pid) != _group(stage.pid)):
        raise UserError("the dvc that started this stage has ended; start dvc again")


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _take(*, candidate: Identity, what: str, stage: Identity | None) -> tuple[IO[str], bool]:
    """Make `candidate` the owner, or go on under an owner that is this process or one of its ancestors.

    Returns the file whose lock stands for the workspace until it is closed, and whether `candidate` became the owner
    here. Waits for a stage that has lost its launcher and is ending.
    Raises InUseError while an unrelated process owns the workspace.
    """
    family = [Identity.of(os.getpid()), *ancestors()]
    deadline = time.monotonic() + GRACE_SECONDS + 5
    while True:
        with _guard():
            lock = _Lock.read()
            ours = lock is not None and lock.owner in family
            if lock and not ours and lock.owner.is_alive():
                raise InUseError(_refusal(lock))
            held = HELD.open("a")
            if lock and ours and not (_is_running(lock.stage) and lock.stage not in family):
                _lock(held, fcntl.LOCK_SH)
                replace(lock, stage=stage).write()
                return held, False
            if not ours and _lock(held, fcntl.LOCK_EX | fcntl.LOCK_NB):
                _lock(held, fcntl.LOCK_SH)  # so that those who work on the owner's behalf may hold it too
                since = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
                _Lock(candidate, what, since, platform.node(), stage).write()
                return held, True
            held.close()
            if lock and not lock.owner.is_here():
                raise InUseError(_refusal(lock))
        if time.monotonic() > deadline:
            if lock is None:
                raise InUseError(
                    f"{Path.cwd()} is in use by a process that does not say who it is; `fuser {HELD}` finds it"
                )
            raise InUseError(_refusal(replace(lock, owner=lock.stage or lock.owner, what=f"a stage of {lock.what}")))
        time.sleep(POLL_SECONDS)


def _is_running(stage: Identity | None) -> bool:
    return stage is not None and stage.is_alive()


def _lock(file: IO[str], how: int) -> bool:
    """Whether the lock was had; for LOCK_SH it always is, since nobody keeps LOCK_EX beyond `_guard`.

    Raises UserError on a disk without locks.
    """
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(
            f"{Path(file.name).absolute()} cannot be locked ({error.strerror}), so two pipelines could write together; "
            "mount this disk with locks that reach all its users, or put the project on another"
        ) from None
    return True


def _refusal(lock: _Lock) -> str:
    used, pid = f"{Path.cwd()} is in use by {lock.what}", lock.owner.pid
    if lock.owner.is_here():
        return f"{used} (process {pid}, since {lock.since}); wait until it ends, or end it: kill {pid}"
    return (
        f"{used} (process {pid} of another container or machine, {lock.host}, since {lock.since}); wait until it ends, "
        f"or end it there, and delete {HELD} only where that machine is lost for good"
    )


def _release(me: Identity) -> None:
    with _guard():
        lock = _Lock.read()
        if lock and lock.owner == me:
            LOCK.unlink()


@contextmanager
def _guard() -> Iterator[None]:
    """Held for the moment in which the lock file is read and written, never longer."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.with_suffix(".guard").open("a") as file:
        _lock(file, fcntl.LOCK_EX)
        yield


def _describe(process: Identity) -> str:
    return f"`{textwrap.shorten(redacted(' '.join(command_of(process.pid))), 60, placeholder=' …')}`"


def _start_watch(chain: list[Identity]) -> None:
    threading.Thread(target=_watch, args=(chain,), daemon=True, name="launcher-watch").start()


def _watch(chain: list[Identity]) -> None:
    """End this process when its launcher has died: first SIGTERM, on which training saves, then by force."""
    while all(process.is_alive() for process in chain):
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
