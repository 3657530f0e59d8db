"""Every fault at the stages where it can do harm: after it, one retraining without a hand makes everything whole.

FAULTS_ROWS=rows.jsonl pytest -m slow tests/faults; python benchmarks/faults.py rows.jsonl
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import fault_kinds
import pytest
from mounts import NO_MOUNT
from site_of_servers import Site, site
from sweep import Fault, note_stages, sweep

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
SLEEP = "import select, time; time.sleep = lambda seconds: select.select([], [], [], seconds) and None"
"""What every Python runs first: libfaketime 0.9.10 answers EINVAL to the system call of time.sleep if it leaves the
monotonic clock alone."""
NO_FAKETIME = "no library that changes the clock of a process is here; apt-get install faketime"
ALL = ("prepare", "train", "sample", "evaluate", "register")
MAIN = ("train", "register")
WRITING = ("prepare", "train", "sample", "register")


def mlflow(there: Site) -> fault_kinds.Server:
    return there.mlflow


def prefect(there: Site) -> fault_kinds.Server:
    return there.prefect


FAULTS: dict[str, tuple[Fault, tuple[str, ...]]] = {
    "SIGKILL of the flow": (fault_kinds.kill_flow, ALL),
    "SIGKILL of the stage": (fault_kinds.kill_stage, ALL),
    "SIGKILL of dvc": (fault_kinds.kill_dvc, ALL),
    "SIGKILL of the worker": (fault_kinds.kill_worker, ALL),
    "power cut": (fault_kinds.kill_all, MAIN),
    "SIGKILL of Prefect's server": (fault_kinds.kill_prefect, MAIN),
    "SIGKILL of MLflow's server": (fault_kinds.kill_mlflow, MAIN),
    "disk full": (fault_kinds.full_disk, WRITING),
    "folder read-only": (fault_kinds.read_only_outputs, WRITING),
    "artifact store read-only": (fault_kinds.read_only_artifacts, MAIN),
    "no answer from MLflow": (fault_kinds.network(mlflow, "silent"), MAIN),
    "connections to MLflow reset": (fault_kinds.network(mlflow, "reset"), MAIN),
    "no answer from Prefect": (fault_kinds.network(prefect, "silent"), MAIN),
    "connections to Prefect reset": (fault_kinds.network(prefect, "reset"), MAIN),
    "data change while they are read": (fault_kinds.add_pictures, ("prepare",)),
}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("faults")
    with site(folder) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(folder / "home"))
        patch.setenv("MLFLOW_TRACKING_URI", made.mlflow.direct)
        patch.setenv("DVC_ROOT", str(made.path))
        note_stages(made)
        yield made


@pytest.fixture
def moments() -> random.Random:
    """The moments of the faults: others in each run, or those of FAULTS_SEED."""
    seed = int(os.environ.get("FAULTS_SEED", random.randrange(1 << 30)))
    print(f"FAULTS_SEED={seed}")
    return random.Random(seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_after_a_fault_in_each_stage_one_retraining_makes_everything_whole(
    there: Site, moments: random.Random, name: str
) -> None:
    fault, stages = FAULTS[name]
    if fault in fault_kinds.NEED_MOUNTS and not there.has_own_disk:
        pytest.skip(NO_MOUNT)
    latest = 0.0 if fault in fault_kinds.OWN_MOMENT else 0.4
    sweep(there, name, fault, stages, share=lambda: moments.uniform(min(0.05, latest), latest))


@pytest.mark.slow
@pytest.mark.skipif(not LIBRARIES, reason=NO_FAKETIME)
def test_a_clock_that_jumps_by_a_day_to_and_fro_changes_nothing(
    there: Site, moments: random.Random, tmp_path: Path
) -> None:
    """The clock of the worker, flows and stages; the servers have the machine's."""
    (tmp_path / "sitecustomize.py").write_text(SLEEP)
    clock, jumps = tmp_path / "clock", iter(("+1d", "-1d", "+0"))
    clock.write_text("+0")
    there.kill_worker()
    there.start_worker(
        PYTHONPATH=os.pathsep.join([there.environment["PYTHONPATH"], str(tmp_path)]),
        LD_PRELOAD=str(LIBRARIES[0]),
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    try:
        sweep(
            there,
            "clock jumps by a day",
            lambda _: clock.write_text(next(jumps)) and None,
            ("train", "sample", "register"),
            share=lambda: moments.uniform(0.05, 0.4),
        )
    finally:
        there.kill_worker()
        there.start_worker()
