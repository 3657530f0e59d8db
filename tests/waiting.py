"""Wait for what other processes and threads do. A deadline here only ends a test that would hang.

It is longer than a machine that is ten times slower needs, so no test fails because its machine is slow or busy.
"""

import time
from collections.abc import Callable
from typing import Any

HANG_SECONDS = 600.0


def wait_for(
    condition: Callable[[], object], *, every: float = 0.05, process: Any = None, seconds: float = HANG_SECONDS
) -> None:
    """Return when the condition is true; fail if `process` (Popen) ends before, or after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None and not condition():
            raise AssertionError(f"the process ended with status {process.poll()}: {process.communicate()}")
        assert time.monotonic() < deadline, f"nothing happened in {seconds:g} s"
        time.sleep(every)
