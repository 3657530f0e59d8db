"""Is there reason to retrain? If so, the pipeline; in either case the decision is left as an artifact.

`python flows/retrain.py [--force]` runs it here; prefect.yaml runs it on a schedule.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("DO_NOT_TRACK", "1")  # prefect reads it when it is imported

import dvc_stage
import pages
import unreported
from pipeline import pipeline
from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from unreported import End, Page

from ddpm.errors import UserError
from ddpm.pipeline.workspace import InUseError, claim
from ddpm.redaction import redact_logs


@flow
def retrain(
    force: bool = False,
    retries: int = 2,
    retry_delay_seconds: float = 10,
    timeout_seconds: float | None = None,
    silent_seconds: float | None = 3600,
) -> State:
    """Run the pipeline if data, parameters or code have changed, by content hash; else do nothing.

    It holds the workspace from its first look to its end, so two retrainings, or a retraining and a person's
    `dvc repro`, never run at once: the later one is refused.

    Args:
        force: Run every stage again though nothing has changed, for example after an upgrade of a library.
        retries: How often a stage that crashed or was killed is started again; training goes on where it was.
        retry_delay_seconds: How long to wait before that.
        timeout_seconds: A stage that takes longer is stopped, and the flow fails. None: no limit.
        silent_seconds: A dvc that says nothing for longer while no stage runs is stopped, and the flow fails: it may
            wait for a disk that does not answer. Hashing new data is silent, too. None: no limit.
    """
    redact_logs()
    unreported.tell()
    try:
        with claim("the flow retrain"):
            dvc_stage.look()
            end = _decide(
                force,
                retries=retries,
                retry_delay_seconds=retry_delay_seconds,
                timeout_seconds=timeout_seconds,
                silent_seconds=silent_seconds,
            )
    except InUseError as error:
        end = End(Failed(name="Refused", message=str(error)))
    except UserError as error:
        end = End(Failed(message=str(error)))
    return unreported.conclude(end)


def _decide(force: bool, **how: float | None) -> End:
    reasons, forced = _reasons(force, how["silent_seconds"])
    for reason in reasons or ["nothing has changed"]:
        get_run_logger().info(reason)
    if not reasons:
        page = _page("Not retrained", ["Data, parameters, code and results are what they were."], gate=True)
        return End(Completed(name="Unchanged", message="nothing has changed, so nothing was done"), [page])
    if not unreported.comes_back():
        return End(Failed(message="the pipeline was not started"), [_page("Not retrained", reasons, gate=False)])

    def end_of(state: State) -> End:
        if not state.is_completed():
            return End(Failed(message=state.message), [_page(f"Failed at {state.message}", reasons, gate=False)])
        return End(Completed(message=state.message), [_page("Retrained", reasons, gate=True)])

    with unreported.within(end_of):
        state = pipeline(force=forced, **how, return_state=True)
    return end_of(state)


def _reasons(force: bool, silent_seconds: float | None) -> tuple[list[str], list[str]]:
    """Why there is something to do, and the stages to force for it. DVC compares by content hash."""
    if force:
        return ["forced"], dvc_stage.stages()
    if not Path("dvc.lock").exists():
        return ["the pipeline has not run here yet"], []
    changed = dvc_stage.changes(silent_seconds=silent_seconds)
    if changed:
        return [f"{stage}: {', '.join(what)}" for stage, what in changed.items()], []
    if pages.RUN.exists() and pages.registered().version is None:
        # Another store, or a new one: training logs its run there, without a step where its end is still kept.
        return ["the registry does not hold the model of this workspace"], ["train", "register"]
    return [], []


def _page(title: str, reasons: list[str], *, gate: bool) -> Page:
    text = f"## {title}\n\n" + "\n".join(f"- {reason}" for reason in reasons)
    if gate and pages.RUN.exists():
        text += f"\n\n## What the gate said\n\n{pages.decision(pages.registered())}"
    return Page("decision", text, title)


def main() -> None:
    import command_line

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--force", action="store_true", help="run every stage again though nothing has changed")
    command_line.run(retrain, force=parser.parse_args().force)


if __name__ == "__main__":
    main()
