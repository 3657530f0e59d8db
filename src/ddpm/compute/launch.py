"""How a stage becomes several processes: a launcher above it decides, or the stage launches workers itself.

Where RANK and WORLD_SIZE are set (torchrun does), this process is a worker. Elsewhere `runtime.processes` says how many
workers run this process's own command line.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from ddpm.compute.processes import LAUNCHER_VARIABLE, STORE_VARIABLE, is_worker, joined
from ddpm.compute.settings import Runtime
from ddpm.errors import UserError

RESTARTS = 3
"""How often lost workers are replaced in one run of a stage, before it fails."""
ERROR_VARIABLE = "DDPM_WORKER_ERROR"
"""Environment variable that names the file in which a worker tells its launcher a UserError."""
_POLL_SECONDS = 0.2
_SAVE_SECONDS = 30.0
"""How long workers may take to save their work after a signal, before they are killed."""


def run_in_workers(main: Callable[[], None], runtime: Runtime) -> None:
    """Run `main` in as many processes as the launcher above this process, or `runtime.processes`, says.

    Raises UserError where a device cannot be shared so, and where workers failed more than RESTARTS times.
    """
    if is_worker():
        with _telling_the_launcher(), joined(runtime):
            main()
    elif (wanted := wanted_processes(runtime)) > 1:
        _launch(wanted)
    else:
        main()


def wanted_processes(runtime: Runtime) -> int:
    """runtime.processes; 0 is one per GPU, and one on a CPU.

    Raises UserError for several on a device that they cannot share.
    """
    if runtime.processes == 1:
        return 1
    from ddpm.compute.hardware import choose_device

    device = choose_device(runtime.device).type
    if device == "cpu":
        return runtime.processes or 1
    import torch

    gpus = torch.cuda.device_count() if device == "cuda" else 1
    if runtime.processes > gpus:
        raise UserError(
            f"runtime.processes is {runtime.processes}, but there are {gpus} devices of the kind {device}, and no two "
            f"processes share one; set it to at most {gpus}, or runtime.device to cpu"
        )
    return runtime.processes or gpus


def _launch(number: int) -> None:
    """Run this process's own command line in `number` workers; when one is lost, all start again, RESTARTS times.

    PyTorch's elastic launcher would do so over a port on all interfaces, and unpickle what anybody puts there.
    Here the workers meet in a file that only this user can read or write.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = {"OMP_NUM_THREADS": str(max(1, cores // number))} | os.environ
    environment |= {LAUNCHER_VARIABLE: str(os.getpid())}
    environment |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(number))
    with TemporaryDirectory(prefix="ddpm-workers-") as private, _noted(signal.SIGTERM, signal.SIGINT) as asked_to_end:
        environment[ERROR_VARIABLE] = str(Path(private) / "error")
        for restart in range(RESTARTS + 1):
            # A new file each time: the old one holds the addresses of the lost, and their replacements would call them.
            environment |= {"TORCHELASTIC_RESTART_COUNT": str(restart), STORE_VARIABLE: f"{private}/store-{restart}"}
            failed = _run_workers(number, environment, asked_to_end)
            if asked_to_end:
                sys.exit(128 + asked_to_end[0])
            if failed is None:
                return
            if sentence := _told(environment):
                raise UserError(sentence)
            first, status = failed
            if restart < RESTARTS:
                print(f"worker {first} ended with status {status}; all workers start again", file=sys.stderr)
    raise UserError(
        f"worker {first} ended with status {status}, and so did those that replaced it "
        f"({RESTARTS} times); what it said stands above"
    )


def _run_workers(number: int, environment: dict[str, str], asked_to_end: list[int]) -> tuple[int, int] | None:
    """Rank and exit status of the worker that failed first, None if none did. All have ended, whatever happens."""
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(number):
            own = environment | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
            # Each in a session of its own: what a terminal sends to all would reach it twice.
            command = [sys.executable, *sys.orig_argv[1:]]
            workers.append(subprocess.Popen(command, env=own, start_new_session=True))
        while not asked_to_end:
            ended = {rank: worker.poll() for rank, worker in enumerate(workers)}
            failed = next(((rank, status) for rank, status in ended.items() if status), None)
            if failed or all(status == 0 for status in ended.values()):
                return failed
            time.sleep(_POLL_SECONDS)
        return None
    finally:
        _end(workers, asked_to_end[0] if asked_to_end else signal.SIGTERM)


def _end(workers: list[subprocess.Popen[bytes]], number: int) -> None:
    """The signal, time to save, SIGKILL; to each worker and what it started."""
    _signal(workers, number)
    deadline = time.monotonic() + _SAVE_SECONDS
    for worker in workers:
        with suppress(subprocess.TimeoutExpired):
            worker.wait(timeout=max(0.0, deadline - time.monotonic()))
    _signal(workers, signal.SIGKILL)
    for worker in workers:
        worker.wait()


def _signal(workers: list[subprocess.Popen[bytes]], number: int) -> None:
    for worker in workers:
        with suppress(ProcessLookupError, PermissionError):  # the second where all that is left of a group is a zombie
            os.killpg(worker.pid, number)


@contextmanager
def _noted(*numbers: signal.Signals) -> Iterator[list[int]]:
    """Those of these signals that came inside the block, in the place of what they do."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _telling_the_launcher() -> Iterator[None]:
    """A worker's UserError becomes its launcher's, which then tries no other worker: that would not mend it."""
    try:
        yield
    except UserError as error:
        if ERROR_VARIABLE not in os.environ:  # under another launcher
            raise
        Path(os.environ[ERROR_VARIABLE]).write_text(str(error))
        sys.exit(1)


def _told(environment: dict[str, str]) -> str:
    """What a worker of this launcher asks a person to mend; empty if nothing."""
    path = Path(environment[ERROR_VARIABLE])
    return path.read_text() if path.exists() else ""
