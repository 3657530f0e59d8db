"""A retraining that waits for a person, the person's answer, and the messages: a real server, worker and registry.

The model's stages are the small ones of these tests; the last one asks the project's own gate, with fixed metrics.
"""

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Prefect, new_project
from waiting import wait_for

sys.path.insert(0, str(ROOT / "tests" / "tracking"))

from shelf import REGISTRY, Shelf, record

from ddpm.promotion import registry

REGISTER = f"""
import json, sys, tempfile
sys.path[:0] = [{str(ROOT / "tests")!r}, {str(ROOT / "tests" / "tracking")!r}]
from pathlib import Path
from fixed_contest import FixedContest, promote
from shelf import REGISTRY
from ddpm.promotion.judge import judge
from ddpm.promotion.registry import champion, version

candidate, rival = version(REGISTRY, "2"), champion(REGISTRY)
def begin(_, champion):
    return FixedContest(candidate.record(), rival.record())
with tempfile.TemporaryDirectory() as folder:
    judge(candidate, REGISTRY, rules=promote(approval="ask"), begin=begin, folder=Path(folder))
known = {{"run_id": candidate.run_id, "model_id": "m", "experiment": "tests", "tracking_uri": "x"}}
Path("models/run.json").write_text(json.dumps(known | {{"model_sha256": candidate.tags["weights_sha256"]}}))
Path("reports/metrics.json").write_text(json.dumps(candidate.record()))
"""
STAGE = """
  register:
    cmd: python register.py
    deps: [data/raw, reports/validation.json]
"""


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """The working folder with a store of its own, as the worker sees it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        yield


def filled(folder: Path, tiny_model: Callable[..., str]) -> Shelf:
    """Version 1, the champion, and version 2, which is better and not judged."""
    shelf = Shelf(folder, tiny_model)
    shelf.judged(0, 10.0)
    shelf.register(1, record(8.0), weights_sha256="w" * 64)
    return shelf


class Receiver:
    """A web server on 127.0.0.1 that keeps the messages which it gets by POST."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        kept = self.messages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                kept.append({"type": self.headers["Content-Type"], **json.loads(body)})
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/secret-path"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def of(self, state: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["state"] == state]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def prefect(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path, tiny_model: Callable[..., str]
) -> Iterator[Prefect]:
    folder = tmp_path_factory.mktemp("prefect")
    os.environ["PREFECT_HOME"] = str(folder / "home")
    os.environ["DO_NOT_TRACK"] = "1"
    with new_project(folder / "a project") as project:
        (project.path / "models").mkdir()
        (project.path / "register.py").write_text(REGISTER)
        dvc = project.path / "dvc.yaml"
        dvc.write_text(dvc.read_text() + STAGE)
        shutil.copy(empty_store, project.path / "mlflow.db")
        with working_in(project.path):
            filled(project.path, tiny_model)
        yield Prefect(project, folder)


def answer(prefect: Prefect, **parameters: Any) -> Any:
    """A run of the deployment `approve/answer`, as the form on Prefect's page makes it."""
    with prefect.client() as client:
        deployment = client.read_deployment_by_name("approve/answer")
        return client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id


@pytest.mark.slow  # a minute: a server, a worker and six runs
def test_a_retraining_waits_a_person_approves_it_and_each_end_is_told_to_the_webhook(
    prefect: Prefect, receiver: Receiver
) -> None:
    command = ("python", "flows/notifications.py")
    assert "no messages are sent" in prefect.project.run(*command, **prefect.environment).stdout
    refused = prefect.project.run(*command, "on", **prefect.environment)
    assert (refused.returncode, "DDPM_WEBHOOK is not set, expected the address" in refused.stdout) == (1, True)
    for _ in range(2):  # the second call replaces the automations of the first
        on = prefect.project.run(*command, "on", DDPM_WEBHOOK=receiver.address, **prefect.environment)
        assert (on.returncode, on.stdout.count("on: ddpm: ")) == (0, 4), on.stdout
    assert "secret-path" not in on.stdout

    prefect.project.say("bad")
    assert prefect.end_of(prefect.trigger()).name == "Failed: validate"
    wait_for(lambda: receiver.of("Failed: validate"))
    prefect.project.say("good")
    run = prefect.trigger()
    state = prefect.end_of(run)
    assert (state.name, state.type.value) == ("Waiting for approval", "COMPLETED")
    assert "version 2 waits for a person: `ddpm approve 2" in state.message
    assert '`ddpm approve 2 --reject --reason "why"`' in prefect.artifacts()["retraining"]
    wait_for(lambda: receiver.of("Waiting for approval"))
    assert prefect.end_of(prefect.trigger()).name == "Completed: nothing changed", "a run that waits holds nothing up"

    given = {"version": 2, "answer": "approve", "who": " Ann ", "reason": "sharper"}
    state = prefect.end_of(answer(prefect, **given))
    assert (state.name, state.message) == (
        "Completed: promoted",
        "Ann approved version 2, which replaces version 1: sharper",
    )
    with working_in(prefect.project.path):
        champion = registry.champion(REGISTRY)
        assert champion is not None
        assert (champion.number, REGISTRY.history()[-1].by) == ("2", "Ann")
    assert "| promoted | 2 | 1 | 8 | 10 | A | Ann | sharper |" in prefect.artifacts()["history"]
    wait_for(lambda: receiver.of("Completed: promoted"))
    state = prefect.end_of(answer(prefect, **given))
    assert (state.name, state.type.value) == ("Refused", "FAILED")
    assert "version 2 of ddpm is the champion already, promoted by Ann on" in state.message
    wait_for(lambda: receiver.of("Refused"))

    assert [message["state"] for message in receiver.messages] == [
        *("Failed: validate", "Waiting for approval", "Completed: promoted", "Refused")
    ]
    for message in receiver.messages:
        assert message["type"] == "application/json"
        assert message["text"] == message["content"]
        assert message["text"].endswith(f"{message['state']}; {message['message']}")
        assert message["flow"] in ("retrain", "approve")
    off = prefect.project.run(*command, "off", **prefect.environment)
    assert (off.returncode, "no messages are sent" in off.stdout) == (0, True), off.stdout
    with prefect.client() as client:
        assert client.read_block_documents_by_type("webhook") == []


WRONG = [
    {"version": "two"},
    {"version": 0},
    {"answer": "maybe"},
    {"who": ""},
    {"who": "   "},
    {"reason": ""},
]


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_the_server_refuses_an_answer_of_another_form_before_it_runs(prefect: Prefect, wrong: dict[str, Any]) -> None:
    from prefect.exceptions import PrefectHTTPStatusError

    given = {"version": 2, "answer": "approve", "who": "Ann", "reason": "sharper"}
    with pytest.raises(PrefectHTTPStatusError) as refused:
        answer(prefect, **given | wrong)
    assert refused.value.response.status_code in (409, 422)


def test_the_form_asks_for_a_number_one_of_two_answers_a_name_and_a_reason() -> None:
    import approve

    schema = approve.approve.parameters.model_dump()
    fields = schema["properties"]
    assert set(schema["required"]) == set(fields) == {"version", "answer", "who", "reason"}
    assert (fields["version"]["type"], fields["version"]["minimum"]) == ("integer", 1)
    assert fields["answer"]["enum"] == ["approve", "reject"]
    assert [fields[name]["minLength"] for name in ("who", "reason")] == [1, 1]
