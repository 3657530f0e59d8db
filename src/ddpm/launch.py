"""How a stage becomes several processes: a launcher above it decides, or the stage launches workers itself.

Where RANK and WORLD_SIZE are set (torchrun does), this process is a worker. Elsewhere `runtime.processes` says how many
workers run this process's own command line.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from ddpm.config import Runtime
from ddpm.distributed import LAUNCHER_VARIABLE, is_worker, joined
from ddpm.errors import UserError

RESTARTS = 3
"""How often lost workers are replaced in one run of a stage, before it fails."""
ERROR_VARIABLE = "DDPM_WORKER_ERROR"
"""Environment variable that names the file in which a worker tells its launcher a UserError."""


def with_workers(main: Callable[[], None]) -> Callable[[], None]:
    """`main` for `run_stage`, in as many processes as the launcher above or params.yaml says.

    Raises UserError where a device cannot be shared so, and where workers failed more than RESTARTS times.
    """

    def run() -> None:
        from ddpm import config

        runtime = config.load().runtime
        if is_worker():
            with _telling_the_launcher(), joined(runtime):
                main()
        elif (wanted := wanted_processes(runtime)) > 1:
            _launch(wanted)
        else:
            main()

    return run


def wanted_processes(runtime: Runtime) -> int:
    """runtime.processes; 0 is one per GPU, and one on a CPU.

    Raises UserError for several on a device that they cannot share.
    """
    if runtime.processes == 1:
        return 1
    from ddpm.runtime import choose_device

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
    """Run this process's own command line in `number` workers; lost ones are replaced, all from the last checkpoint.

    PyTorch's elastic launcher: when a worker dies, the others are ended and all are started anew, at most
    RESTARTS times.
    """
    from tempfile import TemporaryDirectory
    from uuid import uuid4

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    me = psutil.Process()
    os.environ[LAUNCHER_VARIABLE] = f"{me.pid}:{me.create_time()}"
    # A store shared with the launcher would hold the addresses of lost workers, and their replacements would call them.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    errors = TemporaryDirectory()
    os.environ[ERROR_VARIABLE] = str(Path(errors.name) / "error")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // number)))
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=number,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=RESTARTS,
        monitor_interval=0.2,
    )
    try:
        with errors:
            elastic_launch(launch, sys.executable)(*sys.orig_argv[1:])
            if sentence := _told():
                raise UserError(sentence)
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
    except ChildFailedError as failed:
        first, failure = failed.get_first_failure()
        raise UserError(
            f"worker {first} ended with status {failure.exitcode}, and so did those that replaced it "
            f"({RESTARTS} times); what it said stands above"
        ) from None


@contextmanager
def _telling_the_launcher() -> Iterator[None]:
    """A worker's UserError becomes its launcher's. Trying again would not mend it, so replacing workers end at once."""
    if _told():
        sys.exit(0)
    try:
        yield
    except UserError as error:
        if ERROR_VARIABLE not in os.environ:  # under another launcher
            raise
        Path(os.environ[ERROR_VARIABLE]).write_text(str(error))
        sys.exit(1)


def _told() -> str:
    """What a worker of this launcher asks a person to mend; empty if nothing."""
    path = Path(os.environ.get(ERROR_VARIABLE, os.devnull))
    return path.read_text() if path.exists() else ""
