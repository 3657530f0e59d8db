"""Run work in this process, in a local Dask cluster on all cores, in a remote cluster, or in threads.

Work is a function of a picklable piece. It writes its result to a file or returns something small, and the result is
the same wherever and however often it runs: if a worker dies, another one repeats its pieces.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ddpm.errors import UserError

if TYPE_CHECKING:
    from distributed import Client

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")

START_SECONDS = 6.0
"""A local cluster, which takes about two seconds to start, is used for work that would take this process longer."""
_IN_FLIGHT_PER_WORKER = 3
_CONNECT_SECONDS = 60


class Pieces(Sequence[Any]):
    """A sequence whose items are made on access, so that they are never in memory together."""

    def __init__(self, n: int, make: Callable[[int], Any]) -> None:
        self._n, self._make = n, make

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, place: Any) -> Any:
        if not 0 <= place < self._n:
            raise IndexError(place)
        return self._make(place)


def in_order(results: Iterable[tuple[int, _Result]]) -> Iterator[_Result]:
    """Yield the results of `Crew.run` in the order of their pieces; results that come early wait in memory."""
    early: dict[int, _Result] = {}
    following = 0
    for place, result in results:
        early[place] = result
        while following in early:
            yield early.pop(following)
            following += 1


class Crew:
    """Workers for the duration of a `with` block; they are started when there is enough work.

    `workers` is the number of processes or threads on this machine; with `cluster`, an address, that cluster decides.
    Temporary files of a local cluster go to `scratch`; it has no dashboard and listens on this machine only.
    """

    def __init__(self, *, workers: int, cluster: str | None, threads: bool, scratch: Path) -> None:
        self._workers, self._cluster, self._threads, self._scratch = workers, cluster, threads, scratch
        self._stack = ExitStack()
        self._client: Client | None = None

    def __enter__(self) -> "Crew":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, function: Callable[[_Piece], _Result], pieces: Sequence[_Piece]) -> Iterator[tuple[int, _Result]]:
        """Yield (index in `pieces`, result) for every piece, in the order in which they finish.

        Raises UserError if the cluster cannot be reached or loses too many workers, and the errors of `function`.
        """
        rest = iter(enumerate(pieces))
        if self._threads:
            yield from self._in_threads(function, rest)
            return
        if self._cluster is None and self._client is None:
            yield from self._here(function, rest, len(pieces))
        first = next(rest, None)
        if first is not None:
            yield from self._on_cluster(function, _chain(first, rest))

    def _here(
        self, function: Callable[[_Piece], _Result], rest: Iterator[tuple[int, _Piece]], n: int
    ) -> Iterator[tuple[int, _Result]]:
        """Run pieces in this process until all are done, or until the rest is worth a cluster."""
        busy = 0.0
        for done in range(1, n + 1):
            place, piece = next(rest)
            start = time.perf_counter()
            result = function(piece)
            busy += time.perf_counter() - start
            yield place, result
            if self._workers > 1 and busy / done * (n - done) > START_SECONDS:
                return

    def _in_threads(
        self, function: Callable[[_Piece], _Result], rest: Iterator[tuple[int, _Piece]]
    ) -> Iterator[tuple[int, _Result]]:
        with ThreadPoolExecutor(self._workers) as executor:
            running: dict[Future[_Result], int] = {}
            for place, piece in rest:
                running[executor.submit(function, piece)] = place
                if len(running) >= _IN_FLIGHT_PER_WORKER * self._workers:
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
            for future in list(running):
                yield running[future], future.result()

    def _on_cluster(
        self, function: Callable[[_Piece], _Result], rest: Iterable[tuple[int, _Piece]]
    ) -> Iterator[tuple[int, _Result]]:
        """Run pieces on the cluster, a few per worker at a time, so that the scheduler never stores all of them."""
        from distributed import CancelledError, KilledWorker, as_completed
        from distributed.comm import CommClosedError

        client = self._connected()
        window = _IN_FLIGHT_PER_WORKER * max(1, sum(client.nthreads().values()))
        running: dict[Any, int] = {}
        rest = iter(rest)
        completed = as_completed()
        try:
            while True:
                while len(running) < window and (next_one := next(rest, None)) is not None:
                    future = client.submit(function, next_one[1], pure=False)
                    running[future] = next_one[0]
                    completed.add(future)
                if not running:
                    return
                future = next(completed)
                result = future.result()
                yield running.pop(future), result
        except KilledWorker:
            raise UserError(
                "a worker was killed several times, most likely because memory ran out; "
                "lower runtime.workers or data.max_picture_bytes"
            ) from None
        except (CancelledError, CommClosedError) as error:
            raise UserError(
                f"the Dask cluster at {client.scheduler.address if client.scheduler else self._cluster} "
                f"closed the connection ({error}); start it again, and images already decoded will be reused"
            ) from None

    def _connected(self) -> "Client":
        if self._client is None:
            self._client = self._local() if self._cluster is None else self._remote(self._cluster)
        return self._client

    def _local(self) -> "Client":
        import dask
        from distributed import Client, LocalCluster

        scratch = self._stack.enter_context(tempfile.TemporaryDirectory(dir=self._scratch, prefix="dask-"))
        self._stack.enter_context(dask.config.set({"temporary-directory": scratch}))
        cluster = self._stack.enter_context(
            LocalCluster(
                n_workers=self._workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                worker_dashboard_address=None,
                memory_limit=0,
                local_directory=scratch,
                silence_logs=50,
            )
        )
        return self._stack.enter_context(Client(cluster))

    def _remote(self, address: str) -> "Client":
        from distributed import Client

        try:
            client = self._stack.enter_context(Client(address, timeout=_CONNECT_SECONDS))
            client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
        except (OSError, TimeoutError, ValueError) as error:
            sentence = " ".join(str(error).split())
            raise UserError(
                f"runtime.cluster is {address}, where no Dask scheduler with a worker answered ({sentence}); start "
                "`dask scheduler` and `dask worker`, correct the address, or set it to null for this machine"
            ) from None
        return client


def _chain(first: tuple[int, _Piece], rest: Iterator[tuple[int, _Piece]]) -> Iterator[tuple[int, _Piece]]:
    yield first
    yield from rest
