"""`python flows/NAME.py` where there is no Prefect server: a temporary one, which ends with the flow."""

import os
import signal
import sqlite3
from pathlib import Path

from conftest import Project, new_project, wait_for


def test_the_flow_runs_without_a_server_and_its_record_is_kept(project: Project) -> None:
    ran = project.run("python", "flows/pipeline.py")
    assert ran.returncode == 0, ran.stdout
    assert "the model is trained" in ran.stdout
    assert "Traceback" not in ran.stdout
    with sqlite3.connect(project.path / ".state/prefect.db") as database:
        tasks = dict(database.execute("select name, state_name from task_run"))
    assert tasks == {"validate": "Completed", "train": "Completed"}
    wait_for(lambda: not project.processes(), seconds=5)


def test_a_flow_that_is_ended_leaves_neither_a_stage_nor_a_server_behind(project: Project, tmp_path: Path) -> None:
    project.say("long")
    with new_project(tmp_path / "another") as another:
        another.say("long")
        ended = {project: signal.SIGTERM, another: signal.SIGKILL}
        flows = {each: each.start("python", "flows/retrain.py", log=each.path / "log") for each in ended}
        for each, how in ended.items():
            wait_for(each.stage_is_running, seconds=60)
            os.kill(flows[each].pid, how)
        for flow in flows.values():
            flow.wait()
        wait_for(lambda: not project.processes() and not another.processes(), seconds=15)
