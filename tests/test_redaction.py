"""No text that leaves the project contains a credential: tests put one into every source and search all output."""

import base64
import io
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from ruamel.yaml import YAML

from ddpm import cli
from ddpm.errors import UserError
from ddpm.params import load as load_params
from ddpm.redaction import redact_logs, redacted, redacted_output
from ddpm.tracking import store

ROOT = Path(__file__).parents[1]
SECRET = "S3cret-Xy9"
SPELLED = ("S3cret", base64.b64encode(f"ann:{SECRET}".encode()).decode())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"at http://ann:{SECRET}@mlflow:5000/path failed", "at http://mlflow:5000/path failed"),
        (f"https://{SECRET}@host/a", "https://host/a"),
        (f"'postgresql+psycopg2://ann:{SECRET}/and@more@db:5432/x'", "'postgresql+psycopg2://db:5432/x'"),
        (
            f"postgresql://db/x?sslmode=require&password={SECRET}&a=1",
            "postgresql://db/x?sslmode=require&password=***&a=1",
        ),
        (f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3D{SECRET}", "mssql+pyodbc:///?odbc_connect=***"),
        (f"GET /x?X-Amz-Signature={SECRET}&b=2", "GET /x?X-Amz-Signature=***&b=2"),
        (f"host=db password='{SECRET} x' user=ann", "host=db password=*** user=ann"),
        (f'{{"access_token": "{SECRET}", "a": 1}}', '{"access_token": "***", "a": 1}'),
        (f"{{'Authorization': 'Basic {SECRET}'}}", "{'Authorization': 'Basic ***'}"),
        (f"Authorization: Bearer {SECRET}", "Authorization: Bearer ***"),
        ("refused for Basic YW5uOlMzY3JldA==", "refused for Basic ***"),
    ],
)
def test_a_credential_is_recognised_by_its_context(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://localhost:5000/a@b?x=c@d",
        "sqlite:////home/a@b/mlflow.db",
        "s3://bucket/a@b",
        "max_tokens=5, the password is wrong, tokenizer=x, sigma=0.5, Basic training",
        "training:  50%|█████     | 12/24 [00:01<00:02, loss=0.5]",
    ],
)
def test_other_text_is_not_changed(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MLFLOW_TRACKING_PASSWORD", SECRET),
        ("MLFLOW_TRACKING_TOKEN", SECRET),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("PREFECT_API_AUTH_STRING", f"ann:{SECRET}"),
        ("MLFLOW_TRACKING_URI", f"postgresql://ann:{SECRET}@db/x"),
        ("MLFLOW_TRACKING_URI", f"postgresql://db/x?password={SECRET}"),
        ("PREFECT_API_DATABASE_CONNECTION_URL", f"postgresql+asyncpg://ann:{SECRET}@db/x"),
    ],
)
def test_a_credential_of_the_environment_is_recognised_in_any_context(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert redacted(f"the server said: {SECRET} is wrong") == "the server said: *** is wrong"


def test_a_word_that_is_a_password_too_and_a_folder_stay_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://mlflow:mlflow@db/mlflow")
    text = f"{os.environ.get('PWD', '/here')}/mlflow.db"
    assert redacted(text) == text
    assert store.shown_uri() == "postgresql://db/mlflow"


def test_an_error_contains_no_credential_whatever_it_quotes() -> None:
    assert str(UserError(f"http://ann:{SECRET}@host does not answer")) == "http://host does not answer"


def test_output_and_logs_contain_no_credential(capsys: pytest.CaptureFixture[str]) -> None:
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logger = logging.getLogger("a library")
    logger.addHandler(handler)
    before = logging.getLogRecordFactory()
    try:
        redact_logs()
        with redacted_output():
            print(f"http://ann:{SECRET}@host")
            try:
                raise ValueError(f"http://ann:{SECRET}@host")
            except ValueError:
                logger.exception("%s and %d", f"password={SECRET}", 1)
                traceback.print_exc()
    finally:
        redact_logs.cache_clear()
        logging.setLogRecordFactory(before)
        logger.removeHandler(handler)
    printed = capsys.readouterr()
    assert printed.out == "http://host\n"
    assert printed.err.endswith("ValueError: http://host\n")
    assert said.getvalue().startswith("password=*** and 1\nTraceback")
    assert said.getvalue().endswith("ValueError: http://host\n")


class Server(BaseHTTPRequestHandler):
    """Refuses everything, and repeats whom it refuses, as careless servers do."""

    seen: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        said = self.headers.get("Authorization", "none")
        self.seen.append(said)
        body = json.dumps({"error_code": "PERMISSION_DENIED", "message": f"{self.path} not for {said}"}).encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    Server.seen.clear()
    serving = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{serving.server_port}"
    serving.shutdown()
    serving.server_close()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def addresses(server: str, port: int) -> list[str]:
    return [
        f"http://ann:{SECRET}@{server}",
        f"http://ann:{SECRET}@127.0.0.1:{port}/path",
        f"http://127.0.0.1:{port}/?token={SECRET}",
        f"postgresql://ann:{SECRET}@127.0.0.1:{port}/db",
        f"postgresql://127.0.0.1:{port}/db?password={SECRET}",
        f"mysql+pymysql://ann:{SECRET}/x@127.0.0.1:{port}/db",
        f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3D{SECRET}",
        f"ftp://ann:{SECRET}@127.0.0.1:{port}/x",
    ]


def test_neither_an_error_about_a_store_nor_its_cause_contains_the_credential(
    server: str, free_port: int, project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    for address in addresses(server, free_port):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(UserError) as caught:
            store.connect()
        said = "".join(traceback.format_exception(caught.value)) + store.shown_uri()
        assert not any(part in said for part in SPELLED), said
    assert Server.seen[0].startswith("Basic ")  # the server is still told who asks
    printed = capfd.readouterr()
    assert SECRET not in printed.out + printed.err


def ddpm(project: Path, *words: str, **told: str) -> subprocess.CompletedProcess[str]:
    program = "import sys\nfrom ddpm.cli import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", program, *words], cwd=project, env=os.environ | told, capture_output=True, text=True
    )


def test_no_command_prints_the_credential_of_a_store_it_cannot_reach(server: str, project: Path) -> None:
    done = ddpm(project, "versions", MLFLOW_TRACKING_URI=f"http://ann:{SECRET}@{server}")
    assert done.returncode == 1
    assert f"MLflow at http://{server} refused" in done.stderr
    assert not any(part in done.stdout + done.stderr for part in SPELLED)


def test_a_traceback_of_an_unexpected_error_contains_no_credential(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError(f"http://ann:{SECRET}@host")

    monkeypatch.setattr("ddpm.tracking.mlflow_registry.MlflowRegistry.versions", fail)
    assert cli.main(["versions"]) == 1
    assert capsys.readouterr().err.endswith("RuntimeError: http://host\n")


def test_a_flow_prints_no_credential_of_a_prefect_server_that_it_cannot_reach(tmp_path: Path, free_port: int) -> None:
    told = {
        "PREFECT_API_URL": f"http://ann:{SECRET}@127.0.0.1:{free_port}/api",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "flows" / "pipeline.py")],
        cwd=tmp_path,
        env=os.environ | told,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"no Prefect server answers at http://127.0.0.1:{free_port}/api" in done.stderr
    assert not any(part in done.stdout + done.stderr for part in SPELLED)
    assert {path for path, content in everything_in(tmp_path) if SECRET.encode() in content} == set()


@pytest.mark.parametrize("store", [f"ftp://ann:{SECRET}@host/x", f"s3://bucket/x?secret={SECRET}"])
def test_a_credential_in_data_store_is_refused_before_it_is_stored(store: str, tmp_path: Path) -> None:
    params = YAML().load(ROOT / "params.yaml")
    params["data"]["store"] = store
    YAML().dump(params, tmp_path / "params.yaml")
    with pytest.raises(UserError, match="data: store contains a credential") as caught:
        load_params(tmp_path / "params.yaml")
    assert SECRET not in str(caught.value)


def everything_in(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, str(path).encode() + path.read_bytes()


def test_no_file_of_a_run_and_a_registration_contains_the_credential_of_the_store(
    project: Path, tiny_model: Callable[..., str], tmp_path: Path
) -> None:
    program = f"""
import json, sys
from pathlib import Path
from ddpm.data.reading.dataset import Facts
from ddpm.promotion.commands import promote
from ddpm.tracking import logged_model, run_json, store, training_run
from ddpm.tracking.mlflow_registry import MlflowRegistry
facts = Facts(name="x", source="folder", channels=1, size=8, classes=(), train=8, test=2, found=10, kept=10,
              rejected={{}}, content_hash="0" * 64)
tracker = training_run.start_run(experiment="tests", name="x", facts=facts, prepared=Path("prepared"))
sha = sys.argv[1]
model_id = logged_model.log_model(tracker, Path("model.safetensors"), model_sha256=sha)
tracker.finish()
Path("models").mkdir()
Path("models/run.json").write_text(json.dumps(run_json.run_record(tracker, model_sha256=sha)))
figures = {{"fid": 1.0, "floor": {{"fid": 1.0}}, "protocol": {{"drawing": {{}}}}, "memorized_share": 0.0}}
Path("reports").mkdir()
Path("reports/metrics.json").write_text(json.dumps(figures))
MlflowRegistry("ddpm").register(sha256=sha, model_id=model_id, run_id=tracker.id, record=figures, tags={{}})
promote(MlflowRegistry("ddpm"), "1", reason="it said http://ann:{SECRET}@host")
print(store.tracking_uri())
"""
    sha = tiny_model(project / "model.safetensors")
    # SQLite has no use for a password, and so it is the one database here that one can be given to.
    told = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db?password={SECRET}",
        "MLFLOW_TRACKING_PASSWORD": SECRET,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "PREFECT_API_URL": f"http://ann:{SECRET}@127.0.0.1:4200/api",
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path),
    }
    made = subprocess.run(
        [sys.executable, "-c", program, sha], cwd=project, env=os.environ | told, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    assert SECRET in made.stdout  # the store was opened with it
    assert SECRET not in made.stderr
    report = ddpm(project, "report", **told)
    assert report.returncode == 0, report.stderr
    assert '--backend-store-uri "$MLFLOW_TRACKING_URI"' in report.stdout
    assert SECRET not in report.stdout + report.stderr
    record = json.loads((project / "models/run.json").read_text())
    assert record["tracking_uri"].endswith("mlflow.db?password=***")
    left = {str(path) for path, content in everything_in(tmp_path) if SECRET.encode() in content}
    assert left == set()


@pytest.mark.parametrize("text", ["://a:b" * 20_000, "://a@" * 20_000, "password" * 20_000])
def test_untrusted_text_is_redacted_in_a_short_time(text: str) -> None:
    began = time.thread_time()
    redacted(text)
    assert time.thread_time() - began < 30


def test_a_sentence_that_quotes_millions_of_characters_keeps_its_ends_and_is_redacted() -> None:
    began = time.thread_time()
    for quoted in ("a-" * 3_000_000, "://user:word-" * 500_000 + "@host", "x " * 3_000_000):
        sentence = str(UserError(f"number is {quoted}, expected a whole number"))
        assert (sentence.startswith("number is "), sentence.endswith("expected a whole number")) == (True, True)
        assert len(sentence) < 11_000
        assert "word" not in sentence
    assert time.thread_time() - began < 30


def test_the_key_of_an_account_is_hidden() -> None:
    assert "Zm9v" not in redacted("DefaultEndpointsProtocol=https;AccountName=a;AccountKey=Zm9vYmFyMTIz==;")
