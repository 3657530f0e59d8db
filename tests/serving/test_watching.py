"""The watch over a served champion: what it notices, what it never keeps, and what follows."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from site_of_models import Files, running, served_from, two_versions
from waiting import wait_for

from ddpm.canary import kept
from ddpm.canary.drift import drift
from ddpm.cli.watch import act, watch_of
from ddpm.serving.drawn import Drawn
from ddpm.serving.settings import Watch
from ddpm.serving.watching import Crossing, Record, Watching

LIMITS = Watch(share=1.0, images=100, max_distance=1.5, max_slower=10.0, max_error_share=0.05)


@pytest.fixture
def files(tmp_path: Path, tiny_model: Callable[..., str]) -> Files:
    """Two versions, the second is the champion, with what was kept of both."""
    files = two_versions(tmp_path, tiny_model)
    for number in "12":
        files.move(action="promote", version=number, by="Ann", reason="good")
    return files


def features(n: int, seed: int, *, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 8)).astype(np.float32) + shift


def known(classes: int = 2) -> kept.Kept:
    """Features of two classes that lie apart."""
    labels = torch.arange(1000) % classes
    values = torch.from_numpy(features(1000, 0)) + 4 * labels[:, None]
    return kept.Kept(
        machine={}, pictures=torch.zeros(0), features=values, labels=labels, classes=classes, extractor=b""
    )


def test_the_distance_is_within_chance_whatever_classes_people_ask_for_and_above_it_after_a_change() -> None:
    reference = known()
    for share in (0.0, 0.1, 0.5):
        labels = (np.random.default_rng(1).random(400) < share).astype(np.int64)
        same = drift(features(400, 2) + 4 * labels[:, None], labels, reference)
        assert same.distance <= 1.5 * same.by_chance
        moved = drift(features(400, 2, shift=0.5) + 4 * labels[:, None], labels, reference)
        assert moved.distance > 1.5 * moved.by_chance
    ignoring_labels = drift(features(400, 2), None, reference)
    assert ignoring_labels.distance > 1.5 * ignoring_labels.by_chance


def test_a_champion_that_draws_as_before_crosses_nothing_and_one_that_changed_is_reported_once(files: Files) -> None:
    """A hook on the network makes another model of it, as a broken kernel would."""
    crossings: list[Crossing] = []
    models = served_from(files)
    model = models.current.answering
    watching = Watching(Record(kept.read(files.kept["2"]), None), LIMITS, torch.device("cpu"), crossings.append)
    model.listeners.append(watching.drew)
    with running(models) as site:
        for _ in range(8):
            site.prediction(number=16)
        wait_for(lambda: watching.drift)
        assert crossings == []
        hook = model.model.network.register_forward_hook(lambda module, given, out: -out)
        for call in range(12):
            site.prediction(number=16)
            wait_for(lambda: watching.looked_at >= 16 * (call + 9))  # noqa: B023
        wait_for(lambda: crossings)
        hook.remove()
    assert [crossing.limit for crossing in crossings] == ["watch.max_distance"]
    assert "expected at most" in crossings[0].sentence


def test_pictures_that_people_send_and_other_settings_are_not_looked_at(files: Files) -> None:
    from test_answering import picture

    seen: list[int] = []
    models = served_from(files)
    models.current.answering.listeners.append(lambda drawn: seen.append(len(drawn.images)))
    with running(models) as site:
        site.prediction(task="edit", image=picture(), steps=2)
        site.prediction(steps=3)
        site.prediction(frames=2)
        site.prediction(number=3, seed=1)
        assert seen == [], "who chooses the seeds could choose what is measured"
        site.prediction(number=3)
    assert seen == [3]


def test_errors_and_slow_answers_cross_their_limits() -> None:
    crossings: list[Crossing] = []
    watching = Watching(Record(None, 0.01), LIMITS, torch.device("cpu"), crossings.append)
    for k in range(60):
        watching.answered(500 if k % 10 == 0 else 429)
    for _ in range(60):
        watching.drew(Drawn({}, torch.zeros(2, 1, 8, 8, dtype=torch.uint8), None, 0.3))
    wait_for(lambda: len(crossings) == 2)
    assert {crossing.limit for crossing in crossings} == {"watch.max_error_share", "watch.max_slower"}
    watching.end()


def test_a_watch_whose_extractor_cannot_be_read_ends_although_more_answers_wait() -> None:
    watching = Watching(Record(known(), None), LIMITS, torch.device("cpu"), lambda crossing: None)
    for _ in range(100):
        watching.drew(Drawn({}, torch.zeros(2, 1, 8, 8, dtype=torch.uint8), None, None))
    end = threading.Thread(target=watching.end, daemon=True)
    end.start()
    end.join(10)
    assert not end.is_alive()


def test_a_share_of_zero_watches_nothing(files: Files) -> None:
    begin = watch_of(files, Watch(**vars(LIMITS) | {"share": 0.0}), auto_rollback=False)
    models = served_from(files)
    assert models.current.version is not None
    assert begin(models.current.version, models.current.answering) is None


@pytest.mark.parametrize("auto_rollback", [True, False])
def test_a_crossing_is_written_sent_and_rolled_back_once_if_that_is_wanted(
    files: Files, monkeypatch: pytest.MonkeyPatch, auto_rollback: bool
) -> None:
    received: list[Any] = []

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, self.headers["Authorization"], json.loads(content)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "ann:secret")
    crossing = Crossing("watch.max_distance", "too far")
    try:
        for _ in range(2):  # as of two servers of the same champion
            act(files, "2", crossing, auto_rollback=auto_rollback)
    finally:
        server.shutdown()
        server.server_close()
    assert files.champion() == ("1" if auto_rollback else "2")
    assert [move.action for move in files.moves].count("rollback") == auto_rollback
    assert "too far" in files.versions()[0].tags["watched"]
    path, authorization, [event] = received[0]
    assert (path, authorization) == ("/api/events", "Basic YW5uOnNlY3JldA==")
    assert event["event"] == "ddpm.champion.limit-crossed"
    assert event["payload"]["sentence"] == "too far"


def test_servers_that_do_not_answer_stop_no_rollback(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    act(files, "2", Crossing("watch.max_slower", "too slow"), auto_rollback=True)
    assert files.champion() == "1"
