"""A server as the store, also while it does not answer: waits are short, and later it gets everything once."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from keys import key_pair
from mlflow import MlflowClient
from mlflow_server import Server
from PIL import Image
from tracked_run import FACTS, KILLED_TRAINING, run_of, start, write_run
from waiting import HANG_SECONDS, wait_for

from ddpm.errors import UserError
from ddpm.promotion import commands, registry
from ddpm.signing.signature import PrivateKey
from ddpm.tracker import finishing
from ddpm.tracking import run_tracker
from ddpm.tracking import store as store_module
from ddpm.tracking.logged_model import log_model
from ddpm.tracking.mlflow_registry import MlflowRegistry
from ddpm.tracking.run_json import attach

REGISTRY = MlflowRegistry("ddpm")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that never answers; calls wait one second for it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setattr(store_module, "ANSWER_SECONDS", 1.0)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def store(mlflow_server: Server, project: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with short waits."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    monkeypatch.setattr(run_tracker, "FLUSH_SECONDS", 0.05)
    monkeypatch.setattr(run_tracker, "END_SECONDS", {"FINISHED": HANG_SECONDS, "FAILED": 2.0, "KILLED": 2.0})
    return mlflow_server


def steps(client: MlflowClient, run_id: str, name: str) -> list[int]:
    return [figure.step for figure in client.get_metric_history(run_id, name)]


def gauged(unsent: Path) -> int:
    """Return the number of waiting entries with measurements of the machine."""
    return sum("system/" in path.read_text() for path in unsent.glob("*.json"))


def pictures(client: MlflowClient, run_id: str) -> list[int]:
    """The steps of the pictures that are stored in full size."""
    paths = [file.path for file in client.list_artifacts(run_id, "images") if file.path.endswith(".png")]
    return sorted(int(path.split("+")[2]) for path in paths)


def test_a_run_does_not_start_at_a_silent_store_and_says_so_soon(
    project: Path, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent)
    with pytest.raises(UserError, match=r"did not answer within 1 s; start the server again") as error:
        start()
    assert "\n" not in str(error.value)


def test_a_training_goes_on_at_its_speed_and_everything_arrives_when_the_store_answers_again(
    store: Server, project: Path
) -> None:
    tracker = start(kept=project / "kept")
    tracker.log({"loss": 1.0}, images_seen=0)
    with store.frozen():
        time.sleep(0.5)  # a question is on its way
        for seen in range(1, 101):
            tracker.log({"loss": 1 / seen}, images_seen=seen)
            if seen % 50 == 0:
                tracker.image("samples", Image.new("L", (16, 16)), images_seen=seen)
        gauges = gauged(project / "kept" / "unsent")
        wait_for(lambda: gauged(project / "kept" / "unsent") > gauges)
    wait_for(
        lambda: not (project / "kept" / "unsent").exists() or len(steps(tracker.client, tracker.id, "loss")) == 101
    )
    tracker.finish()
    assert steps(tracker.client, tracker.id, "loss") == list(range(101))
    assert pictures(tracker.client, tracker.id) == [50, 100]
    assert run_of(tracker).data.tags["mlflow.loggedImages"] == "True"
    measured = steps(tracker.client, tracker.id, "system/cpu_utilization_percentage")
    assert measured == list(range(len(measured)))
    assert len(measured) > gauges


def test_the_end_of_a_run_waits_little_for_a_silent_store_and_the_next_process_tells_the_rest(
    store: Server, project: Path
) -> None:
    tracker = start(kept=project / "kept")
    with store.frozen():
        for seen in (100, 200, 300):
            tracker.log({"loss": 0.1}, images_seen=seen)
        tracker.image("samples", Image.new("L", (16, 16)), images_seen=200)
        said = r"did not answer; in 2 s it took none of \d+ entries, which wait in .*unsent: the same command"
        with pytest.raises(UserError, match=said):
            tracker.finish("KILLED")
    again = start(tracker.id, kept=project / "kept")
    for seen in (200, 300, 400):  # the last checkpoint was at 100
        again.log({"loss": 0.1}, images_seen=seen)
    for seen in (200, 400):
        again.image("samples", Image.new("L", (16, 16)), images_seen=seen)
    again.finish()
    assert steps(again.client, again.id, "loss") == [100, 200, 300, 400]
    assert pictures(again.client, again.id) == [200, 400]
    assert run_of(again).info.status == "FINISHED"


FROZEN_AND_KILLED = KILLED_TRAINING.replace(
    "for seen in", "Path('begun').touch()\nwhile not Path('frozen').exists(): pass\nfor seen in"
)


def test_a_training_killed_while_the_store_is_silent_loses_nothing_and_says_nothing_twice(
    store: Server, project: Path
) -> None:
    facts = {name: getattr(FACTS, name) for name in FACTS.__dataclass_fields__}
    program = FROZEN_AND_KILLED.format(facts=facts, flush=1.0)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    wait_for((project / "begun").exists)
    with store.frozen():
        (project / "frozen").touch()
        run_id = (process.communicate()[0]).strip()
        assert process.returncode == -signal.SIGKILL
        assert (project / "kept" / "unsent").exists()
    tracker = start(run_id, kept=project / "kept")
    for seen in (200, 300, 400):
        tracker.log({"loss": seen / 100}, images_seen=seen)
    tracker.image("training/samples", Image.new("L", (16, 16)), images_seen=200)
    tracker.finish()
    assert steps(tracker.client, run_id, "loss") == [100, 200, 300, 400]
    assert pictures(tracker.client, run_id) == [200]


def test_a_store_that_is_gone_and_comes_back_gets_the_metrics(
    store: Server, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = start(kept=project / "kept")
    there = tracker.client
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    tracker.client = MlflowClient(tracking_uri="http://127.0.0.1:9", registry_uri="http://127.0.0.1:9")
    tracker.log({"loss": 0.5}, images_seen=128)
    said = ""

    def is_reported() -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return "wait in" in said

    wait_for(is_reported)
    assert "refused or did not answer" in said
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    tracker.client = there
    tracker.log({"loss": 0.4}, images_seen=256)
    tracker.finish()
    assert steps(there, tracker.id, "loss") == [128, 256]


def test_a_server_by_its_uri_holds_run_pictures_model_and_champion(
    mlflow_server: Server, project: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    (project / "mlflow.db").unlink()
    tracker = start()
    with finishing(tracker):
        tracker.log({"loss": 0.5}, images_seen=128)
        tracker.image("samples", Image.new("L", (16, 16)), images_seen=128)
        sha = tiny_model(project / "model.safetensors")
        model_id = log_model(tracker, project / "model.safetensors", model_sha256=sha)
        write_run(tracker, project / "run.json", sha)
    attached = attach(project / "run.json")
    attached.log({"fid": 3.5}, images_seen=1000)
    attached.finish()
    assert run_of(tracker).data.metrics["loss"] == 0.5
    assert len(tracker.client.list_artifacts(tracker.id, "images")) == 2

    version = REGISTRY.register(
        sha256=sha,
        model_id=model_id,
        run_id=tracker.id,
        record={"fid": 3.5, "floor": {}, "protocol": {"n": 10}},
        tags={},
    )
    assert (version.number, version.records()) == ("1", [{"fid": 3.5, "floor": {}, "protocol": {"n": 10}}])
    assert commands.promote(REGISTRY, "1", reason="first").version == "1"
    champion = registry.champion(REGISTRY)
    assert champion is not None
    assert REGISTRY.download(champion, project / "down").read_bytes() == (project / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="has no version 9 at http"):
        registry.version(REGISTRY, "9")

    keys = key_pair(project, "ours")
    signed = ["README.md", "artifacts/model.safetensors", "metrics.json", "version.json"]
    assert REGISTRY.sign("1", PrivateKey(keys.private)) == signed
    ours, champion = MlflowRegistry("ddpm", verify_key=keys.public), registry.version(REGISTRY, "1")
    (project / "verified").mkdir()
    given = ours.download(champion, project / "verified")
    assert given.read_bytes() == (project / "model.safetensors").read_bytes()
    (project / "README.md").write_text("another card")
    tracker.client.log_model_artifact(model_id, str(project / "README.md"))
    with pytest.raises(UserError, match=r"signed: changed: README\.md; restore"):
        ours.verify(champion, keys.public)
    for name in ("mlflow.db", "mlartifacts", ".state"):
        assert not (project / name).exists()
