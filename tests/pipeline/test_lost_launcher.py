"""A stage whose flow dies while the stage enters the workspace ends too, although it takes the flow's lock."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
from waiting import wait_for

STAGE = """
import os, signal, time
from pathlib import Path
import psutil
from ddpm.pipeline import workspace

take = workspace._own_or_share

def take_after_the_launcher_has_died(*words):
    launcher = psutil.Process(int(os.environ[workspace.LAUNCHER_VARIABLE]))
    launcher.kill()
    while launcher.is_running() and launcher.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    return take(*words)

workspace._own_or_share = take_after_the_launcher_has_died

Path("pid").write_text(str(os.getpid()))
workspace.run_stage(lambda: time.sleep(3600))
"""
LAUNCHER = """
import os, subprocess, sys
from ddpm.pipeline.workspace import LAUNCHER_VARIABLE
subprocess.run([sys.executable, "stage.py"], env=os.environ | {LAUNCHER_VARIABLE: str(os.getpid())})
"""


def test_a_stage_ends_whose_flow_died_while_it_took_the_lock(tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(STAGE)
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER], cwd=tmp_path, env=os.environ.copy())
    launcher.wait()
    pid = int((tmp_path / "pid").read_text())
    try:
        wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    finally:
        if psutil.pid_exists(pid):
            psutil.Process(pid).kill()
