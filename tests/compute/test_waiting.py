import os
import subprocess
import sys

import pytest

from ddpm.compute.waiting import wait_briefly


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="torch has another OpenMP there")
def test_torch_reads_how_long_its_threads_stay_awake() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    wait_briefly(environment)
    environment["OMP_DISPLAY_ENV"] = "VERBOSE"
    run = [sys.executable, "-c", "import torch"]
    shown = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stderr
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in shown
    assert "GOMP_SPINCOUNT = '1000'" in shown


@pytest.mark.parametrize("chosen", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "PASSIVE"}])
def test_a_policy_of_the_user_stays_as_it_is(chosen: dict[str, str]) -> None:
    environment = dict(chosen)
    wait_briefly(environment)
    assert environment == chosen


def test_a_spin_count_of_the_user_stays_as_it_is() -> None:
    environment = {"GOMP_SPINCOUNT": "7"}
    wait_briefly(environment)
    assert environment["GOMP_SPINCOUNT"] == "7"
