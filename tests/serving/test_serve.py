"""`ddpm serve` as those meet it who wish it ill: a real server, and what is left of it."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML
from test_answering import picture
from waiting import HANG_SECONDS, wait_for

from ddpm import model_file
from ddpm.errors import UserError
from ddpm.serving import server
from ddpm.serving.calls import Bounds
from ddpm.serving.connections import IDLE_SECONDS
from ddpm.serving.served_models import ServedModels

ROOT = Path(__file__).parents[2]
HEAVY = {
    "task": "inpaint",
    "image": picture(),
    "mask": picture(255),
    "number": 64,
    "steps": 50,
    "jump": 5,
    "resamplings": 50,
}
"""64 images of 2,255 evaluations."""
MAX_WORK, MAX_BODY = 10_000_000, 3_000_000


def answer_on(connection: socket.socket) -> tuple[int, str]:
    """Status and text of the answer that arrives there."""
    answer = HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read().decode()


class Served:
    """A running server."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self.process = process
        self.line = process.stdout.readline()
        self.port = int(self.line.rpartition(":")[2].partition("/")[0])

    def post(self, body: bytes | Any, *, kind: str = "application/json", path: str = "/invocations") -> tuple[int, Any]:
        """Status and what was said; anything but bytes is sent as JSON."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=HANG_SECONDS)
        try:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request("POST", path, content, {"Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200 or len(text) < 1000, "a refusal is short"
            return answer.status, json.loads(text)
        finally:
            connection.close()

    def post_status(self) -> int:
        """Of a small call."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=HANG_SECONDS)
        try:
            connection.request(
                "POST", "/invocations", b'{"inputs": [{"steps": 1}]}', {"Content-Type": "application/json"}
            )
            return connection.getresponse().status
        finally:
            connection.close()

    def begin(self, body: Any) -> socket.socket:
        """The call is sent; its answer is not waited for."""
        content = json.dumps(body).encode()
        return self.begin_body(content, length=len(content))

    def begin_body(self, content: bytes, *, length: int) -> socket.socket:
        """A call whose body is said to have `length` bytes, of which these come at once."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=HANG_SECONDS)
        head = "POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + content)
        return connection

    def work(self) -> float:
        """CPU seconds of the server since its start."""
        return sum(psutil.Process(self.process.pid).cpu_times()[:2])

    def is_idle(self) -> bool:
        """Whether it does almost nothing for a second."""
        before = self.work()
        time.sleep(1)
        return self.work() - before < 0.05


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("a served project")
    tiny_model(folder / "model.safetensors")
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["serve"] |= {"max_work": MAX_WORK, "max_work_together": 2 * MAX_WORK, "max_body_bytes": MAX_BODY}
    yaml.dump(params, folder / "params.yaml")
    process = subprocess.Popen(
        [Path(sys.executable).parent / "ddpm", "serve", "--model", "model.safetensors", "--port", "0"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=(folder / "log").open("w"),
        text=True,
    )
    try:
        yield Served(process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(HANG_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_it_answers_on_this_machine_only_and_as_the_model_in_mlflow_does(served: Served) -> None:
    assert served.line.startswith("model.safetensors answers on http://127.0.0.1:")
    listening = [c for c in psutil.Process(served.process.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
    status, body = served.post({"inputs": [{"number": 2, "seed": 1, "steps": 3, "label": 1}, {"steps": 1}]})
    assert status == 200
    assert [len(answer["images"]) for answer in body["predictions"]] == [2, 1]
    assert body["predictions"][0]["labels"] == ["class 1"] * 2
    again = served.post({"inputs": [{"number": 2, "seed": 1, "steps": 3, "label": 1}]})[1]
    assert again["predictions"][0] == body["predictions"][0]


@pytest.mark.parametrize(
    ("body", "kind", "path", "status", "words"),
    [
        (b"", "application/json", "/invocations", 400, "cannot be read as JSON"),
        (b"{", "application/json", "/invocations", 400, "cannot be read as JSON"),
        (b'{"inputs": [{"guidance": NaN}]}', "application/json", "/invocations", 400, "NaN is not a number in JSON"),
        (b'{"inputs": [{"eta": -Infinity}]}', "application/json", "/invocations", 400, "-Infinity is not a number"),
        (b'{"inputs": "\xff"}', "application/json", "/invocations", 400, "cannot be read as UTF-8"),
        (b"[" * 9_000, "application/json", "/invocations", 400, "nested too deeply"),
        (b'{"inputs": ' + b'[{"a":' * 4_000, "application/json", "/invocations", 400, "nested too deeply"),
        (b'{"inputs": [{"seed": ' + b"9" * 10_000 + b"}]}", "application/json", "/invocations", 400, "JSON"),
        (
            b'{"inputs": [{"number": "' + b"9" * 2_000_000 + b'"}]}',
            "application/json",
            "/invocations",
            400,
            "number is",
        ),
        (
            b'{"inputs": [{"number": "' + b"://a:b" * 400_000 + b'"}]}',
            "application/json",
            "/invocations",
            400,
            "expected a whole number",
        ),
        (b'{"inputs": 3}', "application/json", "/invocations", 400, "inputs is a int, expected a list"),
        (b'{"inputs": [3]}', "application/json", "/invocations", 400, "inputs[0] is a int, expected an object"),
        (b'{"instances": []}', "application/json", "/invocations", 400, "the body is not"),
        (b"[1]", "application/json", "/invocations", 400, "the body is not"),
        (b"a,b\n1,2\n", "text/csv", "/invocations", 415, "application/json"),
        (b"{}", "text/plain", "/invocations", 415, "application/json"),
        (b"{}", "application/json", "/etc/passwd", 404, "POST to /invocations"),
        (b"{}", "application/json", "/ping", 405, "does not take POST"),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, bytes) else "",
)
def test_what_cannot_be_answered_is_one_short_sentence_without_paths(
    served: Served, body: bytes, kind: str, path: str, status: int, words: str
) -> None:
    found, said = served.post(body, kind=kind, path=path)
    assert (found, said.keys()) == (status, {"error_code", "message"})
    assert words in said["message"]
    for word in ("Traceback", ".py", str(ROOT), "\n"):
        assert word not in said["message"]


def test_a_body_of_200_megabytes_is_refused_before_it_is_sent_and_never_held(served: Served) -> None:
    before = psutil.Process(served.process.pid).memory_info().rss
    with socket.create_connection(("127.0.0.1", served.port), timeout=HANG_SECONDS) as connection:
        head = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Content-Length: 200000000\r\n\r\n" + b'{"inputs": [')
        status, answer = answer_on(connection)
    assert status == 413
    assert "the body is larger than 3000000 bytes" in answer
    assert len(answer) < 1000
    # A client that talks before it listens hears the same, as far as the server will listen; so does one that
    # does not say how much it will send.
    assert served.post(b" " * 40_000_000)[0] == 413
    connection = HTTPConnection("127.0.0.1", served.port, timeout=HANG_SECONDS)
    pieces = (b" " * 1_000_000 for _ in range(20))
    connection.request("POST", "/invocations", pieces, {"Content-Type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    assert psutil.Process(served.process.pid).memory_info().rss - before < 50_000_000


def test_a_call_beyond_the_budget_is_answered_429_with_the_numbers(served: Served) -> None:
    status, said = served.post({"inputs": [HEAVY | {"label": 1, "guidance": 2.0}]})
    assert status == 429
    assert said["error_code"] == "TOO_MANY_REQUESTS"
    assert (
        f"needs {64 * 2255 * 2 * 64} network evaluations times pixels, expected at most {MAX_WORK}" in said["message"]
    )


def test_six_heavy_calls_leave_room_for_a_small_one_and_end_when_given_up(served: Served) -> None:
    calls = [served.begin({"inputs": [HEAVY]}) for _ in range(6)]
    refused = 0
    while refused < 5:  # one is at work, beside which half of what is free is too little for another
        for call in select.select(calls, [], [], HANG_SECONDS)[0]:
            status, said = answer_on(call)
            assert (status, "are free beside the" in said) == (429, True)
            calls.remove(call)
            call.close()
            refused += 1
    [at_work] = calls
    assert served.post({"inputs": [{"number": 1, "steps": 5}]})[0] == 200
    assert select.select([at_work], [], [], 0)[0] == [], "the heavy call is still at work"
    before = served.work()
    at_work.close()
    wait_for(served.is_idle)
    assert served.work() - before < 3, "work goes on for a client that has gone"


def test_a_body_that_does_not_arrive_holds_nobody_up(served: Served) -> None:
    slow = []
    for _ in range(20):
        slow.append(served.begin_body(b"{", length=99))
    assert served.post({"inputs": [{"steps": 1}]})[0] == 200
    for connection in slow:
        connection.close()


def test_connections_that_say_nothing_do_not_keep_others_out(served: Served) -> None:
    silent = [socket.create_connection(("127.0.0.1", served.port), timeout=HANG_SECONDS) for _ in range(70)]
    wait_for(lambda: served.post_status() == 200, every=0.3)
    for connection in silent:
        connection.close()


def test_bodies_that_are_only_announced_keep_nobody_out(served: Served) -> None:
    waiting = [served.begin_body(b"{", length=MAX_BODY) for _ in range(8)]
    time.sleep(0.5)
    assert served.post({"inputs": [{"steps": 1}]})[0] == 200
    for connection in waiting:
        connection.close()


def test_bodies_together_take_no_more_than_four_do(served: Served) -> None:
    status, seconds = 200, 0.3
    while status != 429:  # what is posted before the four have arrived may be taken in the place of one of them
        seconds *= 2
        assert seconds < HANG_SECONDS
        waiting = [served.begin_body(b" " * (MAX_BODY - 1), length=MAX_BODY) for _ in range(4)]
        time.sleep(seconds)
        status, said = served.post(b" " * 100_000)
        for connection in waiting:
            connection.close()
    assert "4 are free beside others" in said["message"]
    wait_for(lambda: served.post_status() == 200)


def test_a_body_of_very_many_values_is_refused_before_they_take_memory(served: Served) -> None:
    before = psutil.Process(served.process.pid).memory_info().rss
    status, said = served.post(b'{"inputs":[' + b"[]," * 900_000 + b"[]]}")
    assert (status, "more than 10000 values" in said["message"]) == (400, True)
    assert psutil.Process(served.process.pid).memory_info().rss - before < 40_000_000


@pytest.mark.slow
def test_a_client_that_asks_again_and_again_keeps_its_connection(served: Served) -> None:
    connection = HTTPConnection("127.0.0.1", served.port, timeout=HANG_SECONDS)
    connection.connect()
    one = connection.sock
    end = time.monotonic() + 2 * IDLE_SECONDS + 1
    while time.monotonic() < end:
        connection.request("GET", "/ping")
        connection.getresponse().read()
        assert connection.sock is one
        time.sleep(0.2)
    connection.close()


def test_no_page_of_another_site_may_ask(served: Served) -> None:
    connection = HTTPConnection("127.0.0.1", served.port, timeout=HANG_SECONDS)
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    connection.request("OPTIONS", "/invocations", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 405
    assert not [name for name, _ in answer.getheaders() if name.lower().startswith("access-control")]
    connection.close()


def test_told_to_end_it_ends_though_it_is_at_work(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    tiny_model(tmp_path / "model.safetensors", schedule={"T": 1000})
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["serve"] |= {"max_work": 10**12, "max_work_together": 10**13, "max_seconds": 10 * HANG_SECONDS}
    yaml.dump(params, tmp_path / "params.yaml")
    process = subprocess.Popen(
        [Path(sys.executable).parent / "ddpm", "serve", "--model", "model.safetensors", "--port", "0"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        served = Served(process)
        before = served.work()
        with served.begin({"inputs": [HEAVY | {"steps": 1000}]}) as call:
            wait_for(lambda: served.work() > before + 2, process=process)
            assert select.select([call], [], [], 0)[0] == [], "it is at work"
            process.send_signal(signal.SIGTERM)
            process.wait(HANG_SECONDS)
    finally:
        process.kill()


def test_an_address_that_cannot_be_had_is_one_sentence(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    tiny_model(tmp_path / "model.safetensors")
    model, bounds = model_file.load(tmp_path / "model.safetensors"), Bounds(1, 2, 1, 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port in (taken.getsockname()[1], 70_000):
            with pytest.raises(UserError, match=rf"^cannot listen on 127\.0\.0\.1, port {port} \(.*; choose another"):
                server.run(ServedModels(model, "a model", bounds), bounds, host="127.0.0.1", port=port)
