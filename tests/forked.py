"""Processes that start with torch and MLflow imported, which takes seconds of each process that imports them itself."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from ddpm.compute.processes import STORE_VARIABLE

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["torch._dynamo", "torch.distributed.fsdp", "mlflow", "ddpm.training.run", "ddpm.tracking.training_run"]
)


def start(main: Callable[..., None], *arguments: Any, log: Path, environment: Mapping[str, str]) -> ForkServerProcess:
    """Start a process that calls `main`, with this environment and its output added to the file `log`."""
    process = PROCESSES.Process(target=_run, args=(main, arguments, log, dict(environment)))
    process.start()
    return process


def run_together(number: int, main: Callable[..., None], *arguments: Any, folder: Path) -> None:
    """Call `main` in this number of processes, which find each other by a file in `folder`, as those of a stage do."""
    common = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(number)) | {STORE_VARIABLE: str(folder / "store")}
    processes = [
        start(
            main, *arguments, log=folder / f"log-{rank}",
            environment=os.environ | common | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)),
        )
        for rank in range(number)
    ]  # fmt: skip
    for process in processes:
        process.join()
    for rank, process in enumerate(processes):
        assert process.exitcode == 0, (folder / f"log-{rank}").read_text()


def _run(main: Callable[..., None], arguments: tuple[Any, ...], log: Path, environment: dict[str, str]) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(environment)
    main(*arguments)
    sys.stdout.flush()
