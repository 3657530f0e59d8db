"""The watch in `ddpm serve`, with real servers of MLflow and of Prefect: from answers that changed to the rollback."""

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow_server import end_group
from mlflow_server import running as running_mlflow
from shelf import REGISTRY, Shelf
from test_page_command import fetch, started
from versions_to_serve import register
from waiting import HANG_SECONDS, wait_for

from ddpm import cli
from ddpm.cli.watch import EVENT
from ddpm.promotion import commands, registry

pytestmark = pytest.mark.slow


@contextmanager
def running_prefect(folder: Path) -> Iterator[str]:
    """The address of the API of a Prefect server whose database is in this folder."""
    port = free_port()
    process = subprocess.Popen(
        [Path(sys.executable).parent / "prefect", "server", "start", "--port", str(port)],
        env=os.environ
        | {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}/api"

    def answers() -> bool:
        with suppress(OSError):
            return bool(urllib.request.urlopen(f"{address}/health", timeout=HANG_SECONDS).status == 200)
        return False

    try:
        wait_for(answers, process=process)
        yield address
    finally:
        end_group(process)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def crossings(prefect: str) -> list[Any]:
    """The events of the watch that the Prefect server has."""
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.filters import EventFilter, EventNameFilter

    with SyncPrefectClient(prefect) as client:
        return client.read_events(EventFilter(event=EventNameFilter(name=[EVENT])), limit=50).events


def test_a_champion_whose_answers_cross_the_limit_is_reported_and_replaced_while_clients_are_answered(
    project: Path,
    tmp_path: Path,
    tiny_model: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with running_mlflow(tmp_path) as mlflow, running_prefect(tmp_path / "prefect") as prefect:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.uri)
        shelf = Shelf(project, tiny_model)
        good, changed = register(shelf, 0).number, register(shelf, 1, as_if=2).number
        commands.promote(REGISTRY, good, reason="first")
        commands.promote(REGISTRY, changed, reason="better")
        params = Path("params.yaml").read_text()
        for before, after in {
            "  share: 0.0 ": "  share: 1.0 ",
            "  images: 500 ": "  images: 100 ",
            "  max_slower: 10.0 ": "  max_slower: 10000.0 ",
            "  auto_rollback: false ": "  auto_rollback: true ",
        }.items():
            assert params.count(before) == 1, before
            params = params.replace(before, after)
        Path("params.yaml").write_text(params)

        with started(project, "serve", PREFECT_API_URL=prefect) as (process, url):
            served: list[str] = []

            def ask() -> str:
                answer = json.loads(fetch(f"{url}invocations", {"inputs": [{"number": 16}]}))
                served.append(answer["predictions"][0]["model"]["version"])
                return served[-1]

            def watch() -> dict[str, Any]:
                ask()
                return json.loads(fetch(f"{url}model"))["watch"]

            wait_for(lambda: ask() == good, process=process)
            assert set(served) == {changed, good}
            assert served == sorted(served, key=[changed, good].index), "no answer by the old version after the new one"
            wait_for(lambda: watch()["distance"] is not None, process=process)
            figures = watch()
            assert figures["crossed"] == []
            assert 0 < figures["distance"] <= 1.5 * figures["distance_by_chance"]
            assert b"ddpm_is_champion 1.0" in fetch(f"{url}metrics")

        wait_for(lambda: crossings(prefect))
        [event] = crossings(prefect)
        assert event.resource["prefect.resource.id"] == "ddpm.model.ddpm"
        assert (event.payload["version"], event.payload["limit"]) == (changed, "watch.max_distance")
        assert registry.champion(REGISTRY).number == good  # type: ignore[union-attr]
        assert event.payload["sentence"] in registry.version(REGISTRY, changed).tags["watched"]
        *_, move = REGISTRY.history()
        assert (move.action, move.version, move.previous) == ("rollback", good, changed)
        assert (move.reason, move.by) == (event.payload["sentence"], f"ddpm serve, run by {REGISTRY.user}")
        assert cli.main(["history"]) == 0
        assert "(watch.max_distance)" in capsys.readouterr().out
