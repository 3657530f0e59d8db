"""An MLflow server that tests may freeze, and the end of a server's process."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Server:
    """A real MLflow server with a store and artifacts of its own."""

    uri: str
    process: subprocess.Popen[bytes]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes connections, as its kernel does for it, and answers nothing."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and all of its group, by force if they take longer than 20 seconds."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
