"""Try a fault in the middle of several stages, one after the other, and see what one retraining makes of it."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import whole
from retrainings import RETRAINING_SECONDS, Retrainings
from ruamel.yaml import YAML
from small_pipeline import draw_pictures, train_anew
from waiting import wait_for

ROWS = "FAULTS_ROWS"
"""Environment variable with the file to which each try is added, one JSON object in a line (benchmarks/faults.py)."""


ASK_SECONDS = 5.0
"""Interval at which Prefect is asked whether a run goes on while its stage is waited for."""


@dataclass
class Moment:
    """A stage in its middle, in which a fault happens."""

    site: Any
    """The retrainings, and the servers that the fault is about."""
    run: Any
    stage: str
    process: psutil.Process


Fault = Callable[[Moment], None]
"""Makes the fault, and returns when it is over."""


def sweep(site: Retrainings, name: str, fault: Fault, stages: tuple[str, ...], *, share: Callable[[], float]) -> None:
    """Fail unless all is whole after a fault in each stage, with at most one new retraining after each.

    `share` is how much of the stage's time has passed at the moment of the fault, between 0 and 1. A retraining that
    survives the fault goes on; otherwise one is started, as the schedule would do it, and nothing else is done.
    """
    before, open_before, pictures = whole.registered(), site.open_runs(), len(list(site.path.rglob("data/raw/*/*")))
    recorded = _recorded(site)
    if "prepare" in stages:
        draw_pictures(site.path / "data/raw", 10, seed=pictures)
    else:
        train_anew(site.path)
    rows: list[dict[str, Any]] = []
    lost = ["the sweep did not reach its end"]
    try:
        run = site.trigger()
        for stage in stages:
            process = _middle_of(site, run, stage, share())
            if not process.is_running():
                print(f"{stage} ended before the fault, which was not tried there", flush=True)
                continue
            fault(Moment(site, run, stage, process))
            since = time.monotonic()
            run, again = _done(site, run, stage, recorded.get(stage))
            rows.append({"fault": name, "stage": stage, "seconds": time.monotonic() - since, "started again": again})
            print(json.dumps(rows[-1]), flush=True)
        if not site.goes_on(run) and site.state(run).type.value != "COMPLETED":
            run = site.trigger()
        state = site.end_of(run)
        failed = [] if state.type.value == "COMPLETED" else [f"the last retraining: {state.name} {state.message}"]
        lost = failed + whole.what_is_lost(site, before, open_before)
    finally:
        add_rows([row | {"lost": lost} for row in rows])
    assert not lost, "\n".join(lost)
    assert rows, "every stage ended before the fault"


def _middle_of(site: Retrainings, run: Any, stage: str, share: float) -> psutil.Process:
    """The stage's process when this share of the seconds that the stage took without a fault has passed."""

    asked = time.monotonic()
    while (process := site.stage(stage)) is None:
        time.sleep(0.2)
        if time.monotonic() - asked > ASK_SECONDS:
            assert site.goes_on(run), f"{stage} did not start: {site.state(run)}"
            asked = time.monotonic()
    ran = time.time() - process.create_time()
    psutil.wait_procs([process], timeout=max(share * site.seconds[stage] - ran, 0))
    return process


def _done(site: Retrainings, run: Any, stage: str, before: Any) -> tuple[Any, int]:
    """Wait until DVC has recorded the stage; the run that did it, and how many runs were started for that."""
    again = 0

    def is_done() -> bool:
        nonlocal run, again
        goes_on = site.goes_on(run)  # asked first: a run that ends meanwhile has recorded its stages
        if _recorded(site).get(stage) not in (None, before):  # none while dvc writes, or after a kill at that moment
            return True
        if not goes_on:
            assert again == 0, f"{stage} was not done by one retraining: {site.state(run)}"
            run, again = site.trigger(), 1
        return False

    wait_for(is_done, every=1.0, seconds=RETRAINING_SECONDS)
    if not site.goes_on(run) and site.state(run).type.value != "COMPLETED" and again == 0:
        return site.trigger(), 1
    return run, again


def _recorded(site: Retrainings) -> dict[str, Any]:
    """What DVC has recorded of each stage; empty while dvc writes the file."""
    try:
        read = YAML(typ="safe").load((site.path / "dvc.lock").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return dict((read or {}).get("stages", {}))


def note_stages(site: Retrainings) -> None:
    """Add how long the stages took without a fault, for comparison."""
    seconds = site.seconds.items()
    add_rows([{"fault": "none", "stage": name, "seconds": s, "started again": None, "lost": []} for name, s in seconds])


def add_rows(rows: list[dict[str, Any]]) -> None:
    """Add tries to the file that FAULTS_ROWS names; nothing without it."""
    if path := os.environ.get(ROWS):
        with Path(path).open("a") as file:
            file.writelines(f"{json.dumps(row)}\n" for row in rows)
