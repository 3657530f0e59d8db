"""A Prefect server that is killed while a flow runs, and is there again later: the run ends, and ends up right."""

import os
import signal
import subprocess

import pytest
from conftest import Project, answers, free_port
from waiting import HANG_SECONDS, wait_for

WAIT_SECONDS = 3.0


class Server:
    """A real one with a database in the project, which can be killed and started again."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        log = self.project.path / "server.log"
        self.process = self.project.start("prefect", "server", "start", "--port", str(self.port), log=log)
        wait_for(lambda: answers(f"{self.api}/health"))

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ends_of(self, name: str) -> list[tuple[str, str | None]]:
        """Type and message of the state of every run of the flow or task with this name, the oldest first."""
        from prefect.client.orchestration import SyncPrefectClient

        with SyncPrefectClient(self.api) as client:
            found = [run for run in client.read_flow_runs() if client.read_flow(run.flow_id).name == name]
            found += [run for run in client.read_task_runs() if run.name == name]
            states = [run.state for run in sorted(found, key=lambda run: run.created)]
            return [(state.type.value, state.message) for state in states]

    def artifacts(self) -> set[str | None]:
        from prefect.client.orchestration import SyncPrefectClient

        with SyncPrefectClient(self.api) as client:
            return {each.key for each in client.read_artifacts()}


def let_flows_wait_less(project: Project) -> None:
    path = project.path / "flows/unreported.py"
    text = path.read_text()
    assert "WAIT_SECONDS = 60.0" in text
    path.write_text(text.replace("WAIT_SECONDS = 60.0", f"WAIT_SECONDS = {WAIT_SECONDS}"))


def lose_the_server(project: Project, server: Server) -> subprocess.Popen[bytes]:
    """A retraining whose server has been killed in the middle of `train`."""
    server.start()
    flow = project.start("python", "flows/retrain.py", log=project.path / "log", PREFECT_API_URL=server.api)
    wait_for(project.stage_is_running)
    server.kill()
    return flow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "status", "end"),
    [
        ("slow", 0, ("COMPLETED", "ran validate, train")),
        ("slow broken", 1, ("FAILED", "train: data/raw/said.txt says broken, expected good; write good")),
    ],
)
def test_a_flow_whose_server_has_gone_ends_as_its_stages_do_and_the_next_one_tells_the_server(
    project: Project, words: str, status: int, end: tuple[str, str]
) -> None:
    let_flows_wait_less(project)
    project.say(words)
    server = Server(project)
    flow = lose_the_server(project, server)
    assert flow.wait(timeout=HANG_SECONDS) == status
    said = (project.path / "log").read_text()
    error = "error: " if status else ""
    assert f"\n{error}{end[1]}; the Prefect server at {server.api} does not answer; the next flow that" in said
    assert "Traceback" not in said

    server.start()
    assert server.ends_of("retrain")[0][0] == "RUNNING"
    project.say("good")
    again = project.run("python", "flows/pipeline.py", PREFECT_API_URL=server.api)
    assert again.returncode == 0, again.stdout
    assert server.ends_of("retrain") == [end]
    assert server.ends_of("train")[0][0] == end[0]
    assert "retraining" in server.artifacts()
    assert not list((project.path / ".state/unreported").iterdir())


@pytest.mark.slow
def test_a_server_that_comes_back_while_the_stages_run_knows_how_all_of_them_ended(project: Project) -> None:
    project.say("slow")
    server = Server(project)
    flow = lose_the_server(project, server)
    server.start()
    assert flow.wait(timeout=HANG_SECONDS) == 0
    wait_for(lambda: server.ends_of("train") == [("COMPLETED", "train: done")])
    assert server.ends_of("retrain") == [("COMPLETED", "ran validate, train")]
