"""The relay as a real process before a real Prefect server: who may start a retraining, and how often."""

import hashlib
import hmac
import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from conftest import Prefect, answers, free_port
from waiting import HANG_SECONDS, wait_for

SECRET, TOKEN = "a secret of git 0123", "a token of the store 4567"
MOST_BYTES = 5_000


class Answer(NamedTuple):
    status: int
    body: dict[str, Any]


class Relay:
    def __init__(self, prefect: Prefect) -> None:
        self.port = free_port()
        params = prefect.project.path / "params.yaml"
        text = params.read_text().replace("event_body_bytes: 2000000", f"event_body_bytes: {MOST_BYTES}")
        params.write_text(text.replace("event_wait_seconds: 60 ", "event_wait_seconds: 600 "))
        secrets = {"DDPM_RELAY_GIT_SECRET": SECRET, "DDPM_RELAY_STORE_TOKEN": TOKEN}
        self.prefect, self.environment = prefect, prefect.environment | secrets
        self.log = prefect.project.path / "relay.log"
        self.start()

    def start(self) -> None:
        command = ("python", "flows/relay.py", "--port", str(self.port))
        self.process = self.prefect.project.start(*command, log=self.log, **self.environment)
        wait_for(self.listens, process=self.process)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def restart(self) -> None:
        self.process.terminate()
        self.process.wait(HANG_SECONDS)
        self.start()

    def post(self, path: str, body: bytes, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG_SECONDS)
        connection.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        text = answer.read()
        return Answer(answer.status, json.loads(text) if text.startswith(b"{") else {})

    def push(self, after: str, *, secret: str = SECRET, delivery: str = "1") -> Answer:
        body = json.dumps(
            {
                "ref": "refs/heads/main",
                "after": after * 40,
                "repository": {"full_name": "alice/pictures", "default_branch": "main"},
                "pusher": {"name": "alice"},
            }
        ).encode()
        signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        own = {"X_Hub_Signature_256": signature, "X_GitHub_Event": "push", "X_GitHub_Delivery": delivery}
        return self.post("/git", body, **own)

    def stored(self, key: str, *, token: str = TOKEN) -> Answer:
        thing = {"bucket": {"name": "pictures"}, "object": {"key": key, "eTag": "e", "sequencer": "1"}}
        body = json.dumps({"Records": [{"eventName": "s3:ObjectCreated:Put", "s3": thing}]}).encode()
        return self.post("/store", body, Authorization=f"Bearer {token}")

    def runs(self) -> list[Any]:
        """The runs that events started, the newest last."""
        with self.prefect.client() as client:
            found = [run for run in client.read_flow_runs() if "event" in run.tags]
        return sorted(found, key=lambda run: run.created)

    def begin(self, run: Any) -> None:
        """Let the worker take a run that waits now."""
        from prefect.states import Scheduled

        with self.prefect.client() as client:
            client.set_flow_run_state(run.id, Scheduled(), force=True)


@pytest.fixture(scope="module")
def relay(prefect: Prefect) -> Iterator[Relay]:
    made = Relay(prefect)
    yield made
    made.process.terminate()
    made.process.wait(HANG_SECONDS)


def test_who_has_no_secret_learns_nothing_and_starts_nothing(relay: Relay) -> None:
    refused = Answer(401, {"message": "the request is not signed as this relay expects"})
    assert relay.push("a", secret="another") == refused
    assert relay.post("/git", b"{}", X_GitHub_Event="push") == refused
    assert relay.post("/git", b"{}", X_Hub_Signature_256="sha256=" + "0" * 64) == refused
    assert relay.stored("cat.png", token="another") == refused
    assert relay.post("/store", b"{}") == refused
    assert relay.post("/other", b"{}").status == 404
    assert answers(f"http://127.0.0.1:{relay.port}/health")
    assert relay.runs() == []


def test_a_body_is_bounded_before_it_is_read(relay: Relay) -> None:
    assert relay.post("/store", b" " * (MOST_BYTES + 1), Authorization=f"Bearer {TOKEN}").status == 413
    with socket.create_connection(("127.0.0.1", relay.port), timeout=HANG_SECONDS) as sender:
        sender.sendall(b"POST /git HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        start = time.monotonic()
        assert b"408" in sender.recv(1000)
        assert time.monotonic() - start > 5
    assert relay.post("/store", b"no JSON", Authorization=f"Bearer {TOKEN}").status == 400
    assert relay.runs() == []


def test_events_start_one_retraining_that_says_who_asked_and_repetitions_start_none(relay: Relay) -> None:
    first = relay.push("b")
    assert first.status == 202
    assert relay.push("b", delivery="another") == first, "replayed with another number of delivery"
    assert relay.push("c") == first, "while the first one waits"
    assert relay.stored("cat.png") == relay.stored("dog.png") == first
    (run,) = relay.runs()
    assert (str(run.id), run.state.name) == (first.body["run"], "Scheduled")
    relay.begin(run)
    assert relay.prefect.end_of(run.id).message == "ran validate, train"
    assert relay.prefect.name(run.id).endswith(" first run (push by alice to main of alice/pictures)")
    with relay.prefect.client() as client:
        assert set(client.read_flow_run(run.id).tags) == {"event", "first"}

    relay.restart()
    for again in (relay.push("b"), relay.push("c"), relay.stored("cat.png")):
        assert again == first, "the run has ended, and the relay has been started again"
    assert len(relay.runs()) == 1

    second = relay.stored("newt.png")
    assert second.body["run"] != first.body["run"]
    relay.begin(relay.runs()[-1])
    assert relay.prefect.end_of(second.body["run"]).name == "Completed: nothing changed"
    assert relay.prefect.name(second.body["run"]).endswith(" nothing changed (pictures/newt.png created)")


@pytest.mark.slow
def test_an_event_that_meets_a_retraining_at_work_is_answered_by_a_later_run(relay: Relay) -> None:
    project, prefect = relay.prefect.project, relay.prefect
    (project.path / "go").unlink(missing_ok=True)
    project.say("held")
    at_work = prefect.trigger()
    wait_for(project.stage_is_running)
    met = relay.stored("owl.png").body["run"]
    relay.begin(relay.runs()[-1])
    state = prefect.end_of(met)
    assert state.name == "Completed: postponed"
    assert "is in use by the flow retrain" in state.message
    later = relay.runs()[-1]
    assert (str(later.id) != met, later.state.name) == (True, "Scheduled")
    assert f"; the run {later.name} looks at " in state.message
    assert (later.state.state_details.scheduled_time - state.timestamp).total_seconds() == pytest.approx(600, abs=60)
    assert relay.stored("emu.png").body["run"] == str(later.id), "while the later one waits"
    (project.path / "go").touch()
    assert prefect.end_of(at_work).type.value == "COMPLETED"
    project.say("good")
    relay.begin(later)
    assert prefect.end_of(later.id).message == "ran validate, train"
    assert prefect.name(later.id).endswith("(pictures/owl.png created)")
    assert len(relay.runs()) == 4, "nothing is postponed any more"


@pytest.mark.slow
def test_the_scheduler_s_run_is_tagged_as_such(relay: Relay) -> None:
    with relay.prefect.client() as client:
        run = next(run for run in client.read_flow_runs() if run.auto_scheduled)
    relay.begin(run)
    assert relay.prefect.end_of(run.id).type.value == "COMPLETED"
    with relay.prefect.client() as client:
        assert "cron" in client.read_flow_run(run.id).tags


@pytest.mark.slow  # Prefect counts ten seconds at least
def test_a_retraining_that_is_overdue_starts_by_itself(relay: Relay) -> None:
    prefect = relay.prefect

    def overdue(*words: str) -> str:
        done = prefect.project.run("python", "flows/overdue.py", *words, **prefect.environment)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def done() -> list[Any]:
        """Its runs that were done; on a slow machine ten seconds pass again while the first one works here."""
        with prefect.client() as client:
            found = [run for run in client.read_flow_runs() if run.parameters.get("trigger") == "overdue"]
        return [run for run in found if run.state.is_completed()]

    # A person makes it twice, with another time: there is one automation.
    assert "retrain/nightly starts when no retraining has ended for 3 days" in overdue("--days", "3")
    assert "for 10 seconds" in overdue("--days", str(10 / 86400))
    wait_for(done)
    assert "is off now" in overdue("--off")
    run = done()[0]
    assert run.state.message == "ran validate, train", "forced"
    assert run.name.endswith(" forced (no retraining for 10 seconds)")
    assert {"overdue", "forced"} <= set(run.tags)


@pytest.mark.parametrize(
    ("secrets", "says"),
    [
        ({}, "neither DDPM_RELAY_GIT_SECRET nor DDPM_RELAY_STORE_TOKEN is set"),
        ({"DDPM_RELAY_STORE_TOKEN": "short"}, "DDPM_RELAY_STORE_TOKEN has 5 characters, expected 16 or more"),
        ({"DDPM_RELAY_GIT_SECRET": ""}, "DDPM_RELAY_GIT_SECRET has 0 characters"),
    ],
)
def test_without_a_secret_the_relay_does_not_start(prefect: Prefect, secrets: dict[str, str], says: str) -> None:
    done = prefect.project.run("python", "flows/relay.py", "--port", "0", **prefect.environment, **secrets)
    assert done.returncode == 1
    assert says in done.stdout
    assert "Traceback" not in done.stdout
