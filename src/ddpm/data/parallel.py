"""Chunks of work on all cores, results in order, few of them in memory at a time."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Literal, TypeVar

from ddpm.data.decode import pixel_limit
from ddpm.errors import UserError

_Work = TypeVar("_Work")
_Result = TypeVar("_Result")

_IN_FLIGHT_PER_WORKER = 3


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_order(
    function: Callable[[_Work], _Result],
    work: Iterable[_Work],
    *,
    workers: int,
    pool: Literal["processes", "threads"],
    max_pixels: int,
) -> Iterator[_Result]:
    """`function` of every piece of work, in the order of the work, whatever finishes first.

    One worker is the calling thread itself. Raises UserError when a process dies.
    """
    with pixel_limit(max_pixels):
        if workers == 1:
            yield from map(function, work)
            return
        with _executor(workers, pool, max_pixels) as executor:
            running: deque[Future[_Result]] = deque()
            try:
                for piece in work:
                    running.append(executor.submit(function, piece))
                    if len(running) >= _IN_FLIGHT_PER_WORKER * workers:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            except BrokenProcessPool:
                raise UserError(
                    "a process that decodes images was killed, most likely for want of memory; "
                    "lower runtime.workers or data.max_pixels"
                ) from None
            finally:
                executor.shutdown(wait=False, cancel_futures=True)


def _executor(workers: int, pool: str, max_pixels: int) -> Executor:
    if pool == "threads":
        return ThreadPoolExecutor(workers)
    # Fork is unsafe beside threads, and the stage has one that watches its launcher.
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(max_pixels,)
    )


def _start_worker(max_pixels: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pixel_limit(max_pixels).__enter__()


def _end_with_parent() -> None:
    """A killed parent cannot close its pool; without this its workers would wait for work forever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
