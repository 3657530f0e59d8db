"""A team's servers for one test, with secrets of their own; nothing of them outlives it."""

import importlib.util
import os
import secrets
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from team import DEPLOY, Team, missing_packages
from waiting import HANG_SECONDS


def new_secrets() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("new_secrets", DEPLOY / "new_secrets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: secrets.token_hex(24) for name in module.names()}


@contextmanager
def team_of(project: Path, *files: str, known: dict[str, str] | None = None) -> Iterator[Team]:
    """A team that is not started yet, in a folder that other users can reach; nothing of it outlives the block."""
    if sentence := missing_packages():
        pytest.skip(sentence)
    mark = uuid.uuid4().hex
    os.environ["DDPM_TEST_MARK"] = mark
    with tempfile.TemporaryDirectory(prefix="ddpm-team-") as folder:
        team = Team(Path(folder), project, known or new_secrets(), files or ("compose.yaml",))
        try:
            yield team
        finally:
            team.close()
            left = [process for process in psutil.process_iter() if _has_mark(process, mark)]
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=HANG_SECONDS)


def _has_mark(process: psutil.Process, mark: str) -> bool:
    with suppress(psutil.Error):
        return process.pid != os.getpid() and process.environ().get("DDPM_TEST_MARK") == mark
    return False
