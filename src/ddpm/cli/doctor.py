"""The command that lists what killed processes left behind, and mends it if it is asked to."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.errors import UserError

if TYPE_CHECKING:
    from ddpm.tracking import abandoned_runs

_STALE_RUNS = Path("flows/stale_runs.py")
_NO_SERVER = 3
"""Exit status of stale_runs.py if no Prefect server answers."""


def doctor(args: argparse.Namespace) -> None:
    """List stale runs, locks and half-made files; with --mend close and remove them.

    What a living process works on is not touched, and processes of other machines are only listed. Raises UserError if
    something is left, and outside of a project's folder.
    """
    if not Path("params.yaml").exists():
        raise UserError(f"params.yaml was not found in {Path.cwd()}; run `ddpm doctor` in the project's folder")
    left = sum(look(args.mend) for look in (_workspace, _mlflow, _prefect))
    if left and not args.mend:
        need = "1 thing needs" if left == 1 else f"{left} things need"
        raise UserError(f"{need} attention; `ddpm doctor --mend` mends what no process works on any more")
    if left:
        are = "1 thing is" if left == 1 else f"{left} things are"
        raise UserError(f"{are} left, which only a person can judge; do what the lines above say")
    print("nothing is left to mend" if args.mend else "nothing needs mending")


def _workspace(mend: bool) -> int:
    """Look at this folder and the checkout in which retrainings work; return the number of things that are left."""
    from ddpm.pipeline import checkout

    left = _folder(mend, called="folder")
    inside = checkout.place(Path.cwd())
    if inside is not None and (inside / ".state").is_dir():
        with chdir(inside):
            left += _folder(mend, called="checkout of retrainings")
    return left


def _folder(mend: bool, *, called: str) -> int:
    """Look at the locks and files of the working folder; return the number of things that are left."""
    from ddpm.pipeline import dvc_lock, leftovers, running_list, workspace

    if (used := workspace.in_use()) is not None:
        print(f"{called}: {used}; its files were not looked at")
        return 0
    if mend:
        with workspace.claim("ddpm doctor"):
            for found in leftovers.find():
                found.remove()
                print(f"{called}: {found}; it was removed")
            dvc_lock.mend(lambda sentence: print(f"{called}: {sentence}"))
        running_list.mend(lambda sentence: print(f"{called}: {sentence}"))
    left: list[object] = list(leftovers.find())
    if (fault := running_list.fault()) is not None:
        left.append(f"{running_list.LIST} {fault}")
    if dvc_lock.is_torn():
        left.append(f"{dvc_lock.LOCK} {dvc_lock.TORN}")
    for each in left:
        print(f"{called}: {each}")
    for path in sorted(Path(".state/unreported").glob("*.json")):
        print(f"{called}: {path} is the end of a flow that Prefect missed; the next flow reports it")
    return len(left)


def _mlflow(mend: bool) -> int:
    from ddpm.params import load as load_params
    from ddpm.tracking import abandoned_runs, registry_lock
    from ddpm.tracking.store import default_uri, project, tracking_uri

    note = registry_lock.lock_path(tracking_uri())
    if note.is_file() and note.stat().st_size:
        print(f"MLflow: {note} notes a promotion or rollback that runs or was interrupted; run that command again")
    if tracking_uri() == default_uri() and not (project() / "mlflow.db").is_file():
        return 0
    try:
        found = abandoned_runs.find(load_params().tracking.experiment)
        return sum(_ends(each, mend, end=abandoned_runs.end) for each in found)
    except UserError as error:
        print(f"MLflow: its runs were not looked at ({error})")
        return 0


def _ends(found: "abandoned_runs.Abandoned", mend: bool, *, end: "Callable[[abandoned_runs.Abandoned], None]") -> int:
    if mend and found.may_end:
        end(found)
        print(f"MLflow: {found}; its status is KILLED now")
        return 0
    print(f"MLflow: {found}")
    return 1


def _prefect(mend: bool) -> int:
    """Look at Prefect's runs by the flows' own program, because this package does not import Prefect."""
    if not _STALE_RUNS.exists():
        return 0
    done = subprocess.run(
        [sys.executable, str(_STALE_RUNS), *(["--mend"] if mend else [])], capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    for line in lines:
        print(f"Prefect: {line}")
    if done.returncode == _NO_SERVER:
        return 0
    if done.returncode != 0:
        print(f"Prefect: its runs were not looked at ({(done.stderr.splitlines() or ['no error was printed'])[-1]})")
        return 1
    return sum(not line.startswith("closed: ") for line in lines)
