"""Launch of a stage in several processes, by an external launcher or by the stage itself.

If RANK and WORLD_SIZE are set (by torchrun), this process is a worker. Otherwise `runtime.processes` is the number of
workers, which run the command line of this process.
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

from ddpm.compute.cores import cores
from ddpm.compute.processes import LAUNCHER_VARIABLE, STORE_VARIABLE, is_worker, joined
from ddpm.compute.settings import Runtime
from ddpm.errors import UserError

RESTARTS = 3
"""How often lost workers are replaced in one run of a stage before it fails."""
ERROR_VARIABLE = "DDPM_WORKER_ERROR"
"""Environment variable with the path of the file to which a worker writes a UserError for its launcher."""
_POLL_SECONDS = 0.2
_SAVE_SECONDS = 30.0
"""Time that workers have to save their work after a signal before they are killed."""


def run_in_workers(main: Callable[[], None], runtime: Runtime) -> None:
    """Run `main` in the number of processes that an external launcher or `runtime.processes` sets.

    Raises UserError if the processes cannot share the device, and if workers failed more than RESTARTS times.
    """
    if is_worker():
        with _errors_sent_to_launcher(), joined(runtime):
            main()
    elif (number := number_of_processes(runtime)) > 1:
        _launch(number)
    else:
        main()


def number_of_processes(runtime: Runtime) -> int:
    """Return runtime.processes; 0 becomes one per GPU, or one on a CPU.

    Raises UserError if there are more processes than devices and they cannot share one.
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
            f"runtime.processes is {runtime.processes}, but the number of {device} devices is {gpus} and each process "
            f"needs its own; set it to at most {gpus}, or runtime.device to cpu"
        )
    return runtime.processes or gpus


def _launch(number: int) -> None:
    """Run the command line of this process in `number` workers; if one is lost, restart all, up to RESTARTS times.

    PyTorch's elastic launcher listens on all interfaces and unpickles whatever it receives. Here the workers find each
    other by a file that only this user can read or write.
    """
    environment = {"OMP_NUM_THREADS": str(max(1, cores() // number))} | os.environ
    environment |= {LAUNCHER_VARIABLE: str(os.getpid())}
    environment |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(number))
    with (
        TemporaryDirectory(prefix="ddpm-workers-") as folder,
        _collected_signals(signal.SIGTERM, signal.SIGINT) as signals,
    ):
        environment[ERROR_VARIABLE] = str(Path(folder) / "error")
        for restart in range(RESTARTS + 1):
            # A new file each time: the old one has addresses of lost workers, which the new ones would try to reach.
            environment |= {"TORCHELASTIC_RESTART_COUNT": str(restart), STORE_VARIABLE: f"{folder}/store-{restart}"}
            failed = _run_workers(number, environment, signals)
            if signals:
                sys.exit(128 + signals[0])
            if failed is None:
                return
            if sentence := _worker_error(environment):
                raise UserError(sentence)
            first, status = failed
            if restart < RESTARTS:
                print(f"worker {first} ended with status {status}; all workers start again", file=sys.stderr)
    raise UserError(
        f"worker {first} ended with status {status}, and so did those that replaced it "
        f"({RESTARTS} times); correct the error in its output above and run the stage again"
    )


def _run_workers(number: int, environment: dict[str, str], signals: list[int]) -> tuple[int, int] | None:
    """Run the workers until all have ended. Return rank and exit status of the first that failed, or None."""
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(number):
            own = environment | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
            # Each has its own session: otherwise it would get a signal from the terminal twice.
            command = [sys.executable, *sys.orig_argv[1:]]
            workers.append(subprocess.Popen(command, env=own, start_new_session=True))
        while not signals:
            ended = {rank: worker.poll() for rank, worker in enumerate(workers)}
            failed = next(((rank, status) for rank, status in ended.items() if status), None)
            if failed or all(status == 0 for status in ended.values()):
                return failed
            time.sleep(_POLL_SECONDS)
        return None
    finally:
        _end(workers, signals[0] if signals else signal.SIGTERM)


def _end(workers: list[subprocess.Popen[bytes]], number: int) -> None:
    """Send the signal to the workers and their child processes, wait until they have saved, then send SIGKILL."""
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
        with suppress(ProcessLookupError, PermissionError):  # PermissionError: only a zombie is left of the group
            os.killpg(worker.pid, number)


@contextmanager
def _collected_signals(*numbers: signal.Signals) -> Iterator[list[int]]:
    """Collect these signals inside the block instead of ending the process."""
    caught: list[int] = []
    before = {number: signal.signal(number, lambda n, _: caught.append(n)) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _errors_sent_to_launcher() -> Iterator[None]:
    """Pass a worker's UserError to its launcher, which raises it and does not restart workers."""
    try:
        yield
    except UserError as error:
        if ERROR_VARIABLE not in os.environ:  # started by another launcher
            raise
        Path(os.environ[ERROR_VARIABLE]).write_text(str(error))
        sys.exit(1)


def _worker_error(environment: dict[str, str]) -> str:
    """Return the UserError of a worker of this launcher; empty if there is none."""
    path = Path(environment[ERROR_VARIABLE])
    return path.read_text() if path.exists() else ""
