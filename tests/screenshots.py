"""Take the pictures of the README: a run and a version in MLflow, a retraining in Prefect, the page of the champion.

`python tests/screenshots.py FOLDER --out docs/screenshots` needs a project's folder in which `make run` has ended, and
changes it: it trains nothing, but retrains for Prefect's page after a change of `sample.seed`.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from browser import started, visited
from mlflow_server import end_group
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BIN = Path(sys.executable).parent
MAX_BYTES = 150_000
QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


NEWEST_FLOW_RUN = """
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    print(next(run.id for run in client.read_flow_runs() if run.parent_task_run_id is None))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(command: list[str], folder: Path, environment: dict[str, str], url: str) -> Iterator[None]:
    """Run a server in the folder until the block ends; the block begins when `url` answers."""
    process = subprocess.Popen(
        [str(BIN / command[0]), *command[1:]],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} has ended") from None
                time.sleep(0.5)
        yield
    finally:
        if process.poll() is None:
            end_group(process)


def save(page: "Page", out: Path, *, seconds: float) -> None:
    """Write the window as a PNG with a palette, below MAX_BYTES, after `seconds` in which the page may draw."""
    page.wait_for_timeout(1000 * seconds)
    page.screenshot(path=out)
    with Image.open(out) as taken:
        picture = taken.convert("RGB")
    for colours in (128, 64, 32, 16):
        picture.quantize(colours, dither=Image.Dither.NONE).save(out, optimize=True)
        if out.stat().st_size <= MAX_BYTES:
            break
    print(f"{out}: {out.stat().st_size:,} bytes, {colours} colours")


def of_mlflow(browser: "Browser", folder: Path, out: Path) -> None:
    import mlflow

    store = f"sqlite:///{folder / 'mlflow.db'}"
    version = mlflow.MlflowClient(store, store).get_model_version_by_alias("ddpm", "champion")
    run = mlflow.MlflowClient(store, store).get_run(version.run_id)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    hosts = f"127.0.0.1:{port}"
    command = ["mlflow", "server", "--workers", "1", "--port", str(port), "--allowed-hosts", hosts]
    with served([*command, "--backend-store-uri", store], folder, os.environ | QUIET, f"{url}/health"):
        address = f"{url}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/model-metrics"
        with visited(browser, address) as visit:
            close_assistant(visit.page)
            save(visit.page, out / "mlflow-run.png", seconds=12)
        with visited(browser, f"{url}/#/models/{version.name}/versions/{version.version}") as visit:
            close_assistant(visit.page)
            save(visit.page, out / "mlflow-version.png", seconds=8)


def close_assistant(page: "Page") -> None:
    """MLflow opens a panel beside the first page that a browser visits."""
    from playwright.sync_api import TimeoutError as Late

    with suppress(Late):
        page.get_by_role("button", name=re.compile("close", re.IGNORECASE)).first.click(timeout=20_000)


def of_prefect(browser: "Browser", folder: Path, out: Path) -> None:
    """Retrain after a change of one setting, with a server and a database of this script's own."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | QUIET | {"PREFECT_HOME": home, "PATH": f"{BIN}:{os.environ['PATH']}"}
        with served(["prefect", "server", "start", "--port", str(port)], folder, environment, f"{api}/health"):
            params = folder / "params.yaml"
            sample, rest = re.split(r"(?=^evaluate:)", params.read_text(), maxsplit=1, flags=re.MULTILINE)
            seed = int(re.findall(r"^  seed: (\d+)", sample, re.MULTILINE)[-1])
            head, _, tail = sample.rpartition(f"  seed: {seed}")
            params.write_text(f"{head}  seed: {seed + 1}{tail}{rest}")
            command = [sys.executable, "flows/retrain.py"]
            subprocess.run(command, cwd=folder, env=environment | {"PREFECT_API_URL": api}, check=True)
            command = [sys.executable, "-c", NEWEST_FLOW_RUN]
            asked = subprocess.run(command, env=environment | {"PREFECT_API_URL": api}, capture_output=True, check=True)
            with visited(browser, f"http://127.0.0.1:{port}/runs/flow-run/{asked.stdout.decode().strip()}") as visit:
                save(visit.page, out / "prefect.png", seconds=10)


def of_page(browser: "Browser", folder: Path, out: Path) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    with (
        served(["ddpm", "serve", "--port", str(port)], folder, os.environ | QUIET, f"{url}/ping"),
        visited(browser, f"{url}/") as visit,
    ):
        visit.page.get_by_role("button", name=re.compile("^generate", re.IGNORECASE)).first.click()
        save(visit.page, out / "page.png", seconds=10)


TAKERS = {"mlflow": of_mlflow, "page": of_page, "prefect": of_prefect}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a project's folder in which `make run` has ended")
    parser.add_argument("--out", type=Path, default=Path("docs/screenshots"), help="folder of the pictures")
    parser.add_argument("--only", choices=TAKERS, nargs="+", default=list(TAKERS), help="default: all")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the servers, too
    args.out.mkdir(parents=True, exist_ok=True)
    with started() as browser:
        for name in args.only:
            TAKERS[name](browser, args.folder.resolve(), args.out.resolve())


if __name__ == "__main__":
    main()
